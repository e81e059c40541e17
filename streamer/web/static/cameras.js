// The cameras: all of them as tiles, or one of them large with what the model says.

import { h, say } from "./dom.js";
import { Picture, waysOf } from "./picture.js";
import { age, count, dropped, shapes, state, summary } from "./words.js";

// A browser opens six connections to one address; a live picture takes one for good, the events take another.
const LIVE_AT_ONCE = 4;

export class Cameras {
  constructor(root) {
    this.root = root;
    this.cards = new Map();
    this.streams = [];
    this.hidden = false;
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.card.inSight = entry.isIntersecting;
      this.share();
    });
    addEventListener("hashchange", () => this.arrange());
  }

  update(streams) {
    this.streams = streams;
    if (streams.map((stream) => stream.name).join() !== [...this.cards.keys()].join()) this.build();
    for (const stream of streams) this.cards.get(stream.name).update(stream);
    this.share();
  }

  // The program was started again: live pictures have ended, which a browser does not tell.
  restart() {
    for (const card of this.cards.values()) card.picture.stop();
  }

  // Nobody looks: no picture is fetched.
  hide(hidden) {
    this.hidden = hidden;
    this.share();
  }

  build() {
    for (const card of this.cards.values()) card.picture.stop();
    this.seen.disconnect();
    this.cards = new Map(this.streams.map((stream) => [stream.name, new Card(stream.name, () => this.share())]));
    for (const card of this.cards.values()) this.seen.observe(card.element);
    this.root.replaceChildren(...[...this.cards.values()].map((card) => card.element));
    this.arrange();
  }

  arrange() {
    const asked = decodeURIComponent(location.hash.slice(1));
    const only = this.cards.size === 1 ? [...this.cards.keys()][0] : null;
    const large = this.cards.has(asked) ? asked : only;
    this.root.classList.toggle("one", large !== null);
    for (const [name, card] of this.cards) card.resize(name === large, large !== null && name !== large, only !== null);
    if (large && !only) scrollTo({ top: 0 });
    this.share();
  }

  // Gives the live connections to the first cameras in sight; the others show a still picture every second.
  share() {
    let free = LIVE_AT_ONCE;
    for (const stream of this.streams) {
      const card = this.cards.get(stream.name);
      const away = this.hidden || card.element.hidden || !card.inSight || ["ended", "silent"].includes(stream.state);
      let way = away ? null : card.chosen ?? waysOf(stream)[0];
      if (way?.startsWith("mjpeg") && free-- <= 0) way = "still";
      card.play(stream, way);
    }
  }
}

class Card {
  constructor(name, chose) {
    this.name = name;
    this.inSight = true;
    this.chosen = null;
    this.chose = chose;
    this.picture = new Picture(name);
    this.badge = h("span", { className: "badge" });
    this.why = h("p", { className: "why" });
    this.facts = h("p", { className: "facts" });
    this.tasks = h("div", { className: "tasks" });
    this.ways = h("div", { className: "ways", role: "group", ariaLabel: "How the picture is shown" });
    this.back = h("a", { className: "back", href: "#", textContent: "← all cameras" });
    this.link = h("a", { className: "open", href: `#${name}`, title: `Show ${name} large`, ariaLabel: `Show ${name} large` });
    this.frame = h("div", { className: "frame" }, this.picture.element, this.why, this.link);
    this.element = h("article", { className: "card", ariaLabel: `Camera ${name}` },
      h("div", { className: "head" }, h("h2", { textContent: name }), this.back, this.badge), this.frame, h("div", { className: "line" }, this.facts, this.ways), this.tasks);
    this.element.card = this;
  }

  resize(large, hidden, only) {
    this.large = large;
    this.element.classList.toggle("large", large);
    this.element.hidden = hidden;
    this.back.hidden = !large || only;
    if (this.stream) this.update(this.stream);
  }

  play(stream, way) {
    this.picture.show(stream, way);
    for (const button of this.ways.children) button.ariaPressed = String(button.value === way);
  }

  update(stream) {
    this.stream = stream;
    const { word, tone, why } = state(stream);
    say(this.badge, word);
    this.badge.className = `badge ${tone}`;
    say(this.why, why ?? "");
    this.frame.classList.toggle("quiet", why !== null);
    say(this.facts, facts(stream, this.large));
    this.ways.hidden = !this.large || waysOf(stream).length < 2;
    if (this.ways.children.length !== waysOf(stream).length) this.offer(stream);
    this.tasks.replaceChildren(...stream.tasks.map(this.large ? answer : line));
  }

  offer(stream) {
    this.ways.replaceChildren(...waysOf(stream).map((way) =>
      h("button", { type: "button", value: way, textContent: way.replace("mjpeg", "MJPEG").replace("hls", "HLS"), onclick: () => { this.chosen = way; this.chose(); } })));
  }
}

function facts(stream, large) {
  const words = [];
  if (stream.fps !== null && state(stream).tone === "good") words.push(`${stream.fps.toFixed(stream.fps < 10 ? 1 : 0)} fps`);
  if (stream.frame_age_s !== null) words.push(`newest frame ${age(stream.frame_age_s)} old`);
  if (stream.frames) {
    if (large) words.push(`${count(stream.frames.captured)} captured`, `${count(stream.frames.done)} answered`);
    words.push(`${count(dropped(stream.frames))} dropped`);
    if (large) words.push(...Object.entries(stream.frames.dropped).map(([cause, number]) => `${cause.replace("_", " ")}: ${count(number)}`));
  }
  return words.join(" · ");
}

// Is the newest answer older than it should be?
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
  if (data?.result?.text) body.push(h("p", { className: "text", textContent: data.result.text }));
  if (found.length) body.push(h("ul", { className: "labels" }, ...found.map((shape) =>
    h("li", {}, shape.label || "something",
      shape.score === null ? null : h("span", { className: "soft", textContent: ` ${Math.round(shape.score * 100)} %` })))));
  if (data && !body.length) body.push(h("p", { className: "soft", textContent: summary(task.latest) }));
  if (data) body.push(h("p", { className: "timing", textContent: timing(data) }));
  return h("section", { className: isLate(task) ? "reply late" : "reply" }, head, ...body);
}

function timing(data) {
  const { waited_ms: waited, inference_ms: inference, age_ms: total } = data.timing;
  const words = [`${Math.round(inference)} ms in the model`];
  if (waited !== null) words.unshift(`waited ${Math.round(waited)} ms`);
  if (total !== null) words.push(`published ${Math.round(total)} ms after capture`);
  return [...words, `frame ${data.frame.seq}`, data.model].join(" · ");
}
