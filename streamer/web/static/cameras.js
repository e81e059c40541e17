// The cameras: all as tiles, or one large with the answers of its tasks.

import { caption } from "./caption.js";
import { h, setText } from "./dom.js";
import { Picture, modesOf } from "./picture.js";
import { age, count, dropped, shapes, state, summary } from "./format.js";

// A browser opens at most six connections to a server. Each live video and the events hold one each.
const LIVE_AT_ONCE = 4;

export class Cameras {
  constructor(root) {
    this.root = root;
    this.cards = new Map();
    this.streams = [];
    this.hidden = false;
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.card.inSight = entry.isIntersecting;
      this.assignModes();
    });
    addEventListener("hashchange", () => this.arrange());
  }

  update(streams) {
    this.streams = streams;
    if (streams.map((stream) => stream.name).join() !== [...this.cards.keys()].join()) this.build();
    for (const stream of streams) this.cards.get(stream.name).update(stream);
    this.assignModes();
  }

  // The agent was restarted: live videos have ended, and the browser reports no error.
  restart() {
    for (const card of this.cards.values()) card.picture.stop();
  }

  // The page is hidden: stop all videos.
  hide(hidden) {
    this.hidden = hidden;
    this.assignModes();
  }

  build() {
    for (const card of this.cards.values()) card.picture.stop();
    this.seen.disconnect();
    this.cards = new Map(this.streams.map((stream) => [stream.name, new Card(stream.name, () => this.assignModes())]));
    for (const card of this.cards.values()) this.seen.observe(card.element);
    this.root.replaceChildren(...[...this.cards.values()].map((card) => card.element));
    this.arrange();
  }

  arrange() {
    const selected = location.hash.slice(1); // a stream name holds no character that a browser would encode
    const only = this.cards.size === 1 ? [...this.cards.keys()][0] : null;
    const large = this.cards.has(selected) ? selected : only;
    this.root.classList.toggle("one", large !== null);
    for (const [name, card] of this.cards) card.resize(name === large, large !== null && name !== large, only !== null);
    if (large && !only) scrollTo({ top: 0 });
    this.assignModes();
  }

  // Give the live connections to the first cameras in sight; the others show a snapshot every second.
  assignModes() {
    let free = LIVE_AT_ONCE;
    for (const stream of this.streams) {
      const card = this.cards.get(stream.name);
      const inactive = this.hidden || card.element.hidden || !card.inSight || ["ended", "silent", "elsewhere", "unreachable"].includes(stream.state);
      let mode = inactive ? null : card.chosen ?? modesOf(stream)[0];
      if (mode?.startsWith("mjpeg") && free-- <= 0) mode = "still";
      card.play(stream, mode);
    }
  }
}

class Card {
  constructor(name, onChoose) {
    this.name = name;
    this.inSight = true;
    this.chosen = null;
    this.onChoose = onChoose;
    this.picture = new Picture(name);
    this.badge = h("span", { className: "badge" });
    this.problem = h("p", { className: "problem" });
    this.facts = h("p", { className: "facts" });
    this.tasks = h("div", { className: "tasks" });
    this.modes = h("div", { className: "modes", role: "group", ariaLabel: "Video mode" });
    this.back = h("a", { className: "back", href: "#", textContent: "← all cameras" });
    this.link = h("a", { className: "open", href: `#${name}`, title: `Show ${name} large`, ariaLabel: `Show ${name} large` });
    this.frame = h("div", { className: "frame" }, this.picture.element, this.problem, this.link);
    this.element = h("article", { className: "card", ariaLabel: `Camera ${name}` },
      h("div", { className: "head" }, h("h2", { textContent: name }), this.back, this.badge), this.frame, h("div", { className: "line" }, this.facts, this.modes), this.tasks);
    this.element.card = this;
  }

  resize(large, hidden, only) {
    this.large = large;
    this.element.classList.toggle("large", large);
    this.element.hidden = hidden;
    this.back.hidden = !large || only;
    if (this.stream) this.update(this.stream);
  }

  play(stream, mode) {
    this.picture.show(stream, mode);
    for (const button of this.modes.children) button.ariaPressed = String(button.value === mode);
  }

  update(stream) {
    if (this.stream && this.stream.host !== stream.host) this.picture.stop(); // it has moved: its video begins anew
    this.stream = stream;
    const { text, tone, problem } = state(stream);
    setText(this.badge, text);
    this.badge.className = `badge ${tone}`;
    setText(this.problem, problem ?? "");
    this.frame.classList.toggle("quiet", problem !== null);
    setText(this.facts, facts(stream, this.large));
    this.modes.hidden = !this.large || modesOf(stream).length < 2;
    if (this.modes.children.length !== modesOf(stream).length) this.showModes(stream);
    this.tasks.replaceChildren(...stream.tasks.map(this.large ? answer : line),
      ...(this.large && stream.objects.length ? [objects(stream.objects)] : []));
  }

  showModes(stream) {
    this.modes.replaceChildren(...modesOf(stream).map((mode) =>
      h("button", { type: "button", value: mode, textContent: mode.replace("mjpeg", "MJPEG").replace("hls", "HLS"), onclick: () => { this.chosen = mode; this.onChoose(); } })));
  }
}

function facts(stream, large) {
  const parts = [];
  if (stream.fps !== null && state(stream).tone === "good") parts.push(`${stream.fps.toFixed(stream.fps < 10 ? 1 : 0)} fps`);
  if (stream.frame_age_s !== null) parts.push(`newest frame ${age(stream.frame_age_s)} old`);
  if (stream.frames) {
    if (large) parts.push(`${count(stream.frames.captured)} captured`, `${count(stream.frames.done)} answered`);
    parts.push(`${count(dropped(stream.frames))} dropped`);
    if (large) parts.push(...Object.entries(stream.frames.dropped).map(([cause, number]) => `${cause.replace("_", " ")}: ${count(number)}`));
  }
  if (stream.device || stream.host) parts.push(`on ${stream.device ?? stream.host}`);
  return parts.join(" · ");
}

// Return whether the newest answer is older than expected.
function isLate(task) {
  return task.latest !== null && task.every_s !== null && task.latest_age_s > 3 * task.every_s + 5;
}

function line(task) {
  return h("p", { className: isLate(task) ? "task late" : "task" },
    h("span", { className: "what", textContent: task.name }),
    h("span", { className: "answer", textContent: task.latest ? summary(task.latest) : "no answer yet" }),
    h("span", { className: "age", textContent: task.latest ? age(task.latest_age_s) : "" }));
}

function answer(task) {
  const data = task.latest?.data;
  const found = data?.result ? shapes(data.result) : [];
  const head = h("header", {}, h("h3", { textContent: task.name }),
    task.name === task.task ? null : h("span", { className: "soft", textContent: task.task.replaceAll("_", " ") }),
    h("span", { className: "age", textContent: task.latest ? `last answer ${age(task.latest_age_s)} ago` : "no answer yet" }));
  const body = [];
  if (data?.result?.text) body.push(caption(data.result));
  if (found.length) body.push(h("ul", { className: "labels" }, ...found.map((shape) =>
    h("li", {}, shape.label || "something",
      shape.score === null ? null : h("span", { className: "soft", textContent: ` ${Math.round(shape.score * 100)} %` })))));
  if (data && !body.length) body.push(h("p", { className: "soft", textContent: summary(task.latest) }));
  if (data) body.push(h("p", { className: "timing", textContent: timing(data) }));
  return h("section", { className: isLate(task) ? "reply late" : "reply" }, head, ...body);
}

// Return the list of the newest descriptions of objects.
function objects(found) {
  return h("section", { className: "reply", ariaLabel: "Objects" }, h("header", {}, h("h3", { textContent: "objects" })),
    h("ul", { className: "objects" }, ...found.map((one) => h("li", {}, one.text,
      h("span", { className: "soft", textContent: ` ${one.label ?? "object"} ${one.track}, ${place(one.region)}, ${age(one.age_s)} ago` })))));
}

// Return where a region is in the picture.
function place([x0, y0, x1, y1]) {
  const third = (middle, names) => names[Math.min(2, Math.floor(middle * 3))];
  const words = [third((y0 + y1) / 2, ["top", "", "bottom"]), third((x0 + x1) / 2, ["left", "", "right"])];
  return words.filter(Boolean).join(" ") || "centre";
}

function timing(data) {
  const { waited_ms: waited, inference_ms: inference, age_ms: total } = data.timing;
  const parts = [`${Math.round(inference)} ms in the model`];
  if (waited !== null) parts.unshift(`waited ${Math.round(waited)} ms`);
  if (total !== null) parts.push(`published ${Math.round(total)} ms after capture`);
  return [...parts, `frame ${data.frame.seq}`, data.model].join(" · ");
}
