// The video of one camera: Motion JPEG, else HLS, else a snapshot every second.

import { h } from "./dom.js";

const STILL_MS = 1000;
const RETRY_MS = 2000;

export function modesOf(stream) {
  return [...stream.live.map((one) => one.view === stream.name ? one.kind : `${one.kind} in sync`), "still"];
}

export class Picture {
  constructor(name) {
    this.name = name;
    this.mode = null;
    this.medium = null;
    this.timer = null;
    this.hls = null;
    this.element = h("div", { className: "screen" });
  }

  // Show the stream in this mode; null shows nothing.
  show(stream, mode) {
    if (mode === this.mode && !this.broken()) return;
    this.stop();
    this.mode = mode;
    if (mode === null) return;
    const live = stream.live[modesOf(stream).indexOf(mode)];
    if (live?.kind === "mjpeg") this.motion(`.${live.url}`);
    else if (live?.kind === "hls") this.video(`.${live.url}`);
    else this.still(stream);
  }

  stop() {
    clearTimeout(this.timer);
    this.hls?.destroy();
    this.hls = null;
    if (this.medium) {
      this.freeze(this.medium);
      this.medium.onload = this.medium.onerror = null;
      this.medium.removeAttribute("src"); // closes the connection
      if (this.medium.load) this.medium.load();
    }
    this.medium = this.mode = null;
  }

  place(medium) {
    medium.setAttribute("aria-label", `Picture of ${this.name}`);
    this.medium = medium;
    for (const old of [...this.element.children]) if (old.tagName !== "CANVAS") old.remove();
    this.element.append(medium);
  }

  // Return whether a Motion JPEG has ended: the browser fires no event, but the image has no size any more.
  broken() {
    const medium = this.medium;
    return medium?.tagName === "IMG" && medium.classList.contains("there") && medium.complete && !medium.naturalWidth;
  }

  // Keep the last frame visible until a newer one is there.
  freeze(medium) {
    if (!medium.classList.contains("there") || this.broken()) return;
    const canvas = h("canvas", { width: medium.naturalWidth || medium.videoWidth, height: medium.naturalHeight || medium.videoHeight });
    canvas.getContext("2d").drawImage(medium, 0, 0);
    canvas.classList.add("there");
    this.element.replaceChildren(canvas);
  }

  // Show the first frame and give the card its aspect ratio.
  appear(medium, width, height) {
    medium.classList.add("there");
    for (const old of [...this.element.children]) if (old !== medium) old.remove();
    if (width && height) this.element.parentElement.style.aspectRatio = `${width} / ${height}`;
  }

  motion(url) {
    const image = h("img", { alt: "" });
    image.onload = () => this.appear(image, image.naturalWidth, image.naturalHeight);
    image.onerror = () => {
      this.timer = setTimeout(() => (image.src = `${url}?${Date.now()}`), RETRY_MS);
    };
    image.src = `${url}?${Date.now()}`;
    this.place(image);
  }

  still(stream) {
    const image = h("img", { alt: "" });
    const width = Math.min(1280, Math.ceil((this.element.clientWidth || 640) * Math.min(devicePixelRatio, 2)));
    const again = (delay) => (this.timer = setTimeout(next, delay));
    const next = () => (image.src = `api/snapshot/${stream.name}.jpg?width=${width}&annotated=true&at=${Date.now()}`);
    image.onload = () => {
      this.appear(image, image.naturalWidth, image.naturalHeight);
      again(STILL_MS);
    };
    image.onerror = () => again(RETRY_MS);
    this.place(image);
    next();
  }

  async video(url) {
    const video = h("video", { muted: true, autoplay: true, playsInline: true });
    video.onplaying = () => this.appear(video, video.videoWidth, video.videoHeight);
    this.place(video);
    const { default: Hls } = await import("./vendor/hls.light.min.mjs");
    if (this.medium !== video) return;
    if (!Hls.isSupported()) {
      video.src = url; // Safari plays HLS natively
      return;
    }
    const again = () => {
      this.hls?.destroy();
      if (this.medium !== video) return;
      // No worker: the Content-Security-Policy forbids blob scripts.
      const hls = new Hls({ enableWorker: false, liveSyncDurationCount: 2, liveMaxLatencyDurationCount: 5, backBufferLength: 5 });
      this.hls = hls;
      hls.on(Hls.Events.ERROR, (_, error) => {
        if (!error.fatal) return;
        if (error.type === Hls.ErrorTypes.MEDIA_ERROR && !hls.recovered) {
          hls.recovered = true;
          hls.recoverMediaError();
        } else {
          clearTimeout(this.timer);
          this.timer = setTimeout(again, RETRY_MS);
        }
      });
      hls.on(Hls.Events.MANIFEST_PARSED, () => video.play().catch(() => {}));
      hls.loadSource(url);
      hls.attachMedia(video);
    };
    again();
  }
}
