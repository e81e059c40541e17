// The review page: one picture at a time, all by keys. A picture counts as reviewed when the server has stored it.

import { Chooser } from "./chooser.js";
import { h, setText } from "./dom.js";
import { get, keep, picture, post } from "./server.js";
import { Sheet } from "./sheet.js";
import { View } from "./view.js";

const STEP = 0.02; // of the picture, for each arrow key
const FINE = 0.002;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const DIGITS = 9;
const FIXING = "Arrow keys move the box, with Shift its right and lower side, with Ctrl in small steps. Or drag on the picture.";

class Review {
  constructor({ by, sets, labels, export: command }) {
    this.labels = labels;
    this.command = command;
    this.two = sets.length > 1;
    this.mode = "look"; // or "fix", "label"
    this.item = null;
    this.waiting = []; // keys that were pressed while another one was carried out
    this.busy = false;
    this.view = new View(sets, (place) => this.idle(() => this.sheet.select(place)), (a, b) => this.drag(a, b));
    this.chooser = new Chooser(labels, (label) => this.chosen(label));
    setText(document.getElementById("reviewer"), by);
    addEventListener("keydown", (event) => this.onKey(event));
  }

  // Each mode's actions: key, name of the key, what it does, method. The page shows a button for each.
  get actions() {
    if (this.mode === "label") return [["Enter", "Enter", "Take label", () => this.chooser.key("Enter")], ["Escape", "Esc", "Cancel", () => this.chooser.key("Escape")]];
    if (this.mode === "fix") return [["Enter", "Enter", "Done", () => this.fixed(true)], ["Escape", "Esc", "Cancel", () => this.fixed(false)]];
    const object = this.sheet?.object;
    return [
      this.item && ["Enter", "Enter", "Right", () => this.store()],
      object && ["w", "w", object.wrong ? "Not wrong" : "Wrong", () => this.sheet.toggleWrong()],
      object && ["f", "f", "Fix box", () => this.fix()],
      object && ["l", "l", "Relabel", () => this.choose()],
      this.item && ["a", "a", "Add box", () => this.add()],
      this.item && this.two && ["s", "s", "Other set", () => this.sheet.swap()],
      this.item && ["n", "n", "Next", () => this.next()],
      ["u", "u", "Undo", () => this.undo()],
    ].filter(Boolean);
  }

  onKey(event) {
    const { key, target } = event;
    if (event.altKey || event.metaKey || event.isComposing || (event.ctrlKey && !(key in ARROWS))) return;
    const native = target.closest?.("button, a") && (key === "Enter" || key === " ");
    if (native || key === "Tab" || key === "Shift") return;
    if (event.repeat && !(key in ARROWS) && key !== "Backspace") return event.preventDefault(); // a key that is held decides once
    const press = { key, shift: event.shiftKey, fine: event.ctrlKey };
    if (this.busy) {
      this.waiting.push(press);
      event.preventDefault();
    } else if (this.press(press, this.mode === "label" && target !== this.chooser.input)) {
      event.preventDefault();
    }
  }

  // Carry out a key; return whether it has a meaning. `typed`: a letter that the label field did not receive itself.
  press({ key, shift, fine }, typed = false) {
    if (this.mode === "label") {
      const used = this.chooser.key(key, typed);
      if (used) this.render();
      return used;
    }
    const arrow = ARROWS[key];
    if (arrow && this.mode === "fix") {
      const step = fine ? FINE : STEP;
      this.run(() => this.sheet.move(arrow[0] * step, arrow[1] * step, shift));
    } else if (arrow && arrow[1] && this.sheet) {
      this.run(() => this.sheet.select(this.sheet.selected + arrow[1]));
    } else if (this.mode === "look" && /^[1-9]$/.test(key) && this.sheet?.object && this.labels[key - 1] !== undefined) {
      this.run(() => this.sheet.relabel(this.labels[key - 1]));
    } else {
      const action = this.actions.find(([name]) => name === key || name === key.toLowerCase());
      if (!action) return false;
      this.run(action[3]);
    }
    return true;
  }

  // Run an action and then the keys that were pressed meanwhile. After a failure those keys are dropped: they were
  // meant for another state of the page.
  async run(action) {
    this.busy = true;
    this.note("");
    try {
      const result = action();
      this.render();
      if (result instanceof Promise) await result;
    } catch (error) {
      this.waiting = [];
      this.note(error.message, true);
    }
    this.busy = false;
    this.render();
    while (!this.busy && this.waiting.length) this.press(this.waiting.shift(), true);
  }

  idle(action) {
    if (!this.busy && this.mode === "look") this.run(action);
  }

  async store() {
    if (!this.shown) throw new Error("The picture is not shown, so it cannot be right: go on with n.");
    if (this.sheet.objects.some((one) => !one.label)) throw new Error("An object has no label: select it and press l.");
    await this.show(await post("api/review/decisions", this.sheet.decision(this.item.number)));
  }

  async next() {
    const before = this.item.number;
    await this.show(await get(`api/review/next?after=${before}`));
    if (this.item?.number === before) this.note("This is the only picture that is left.");
  }

  async undo() {
    if (this.sheet?.undo()) return;
    const item = await post("api/review/undo", {});
    await this.show(item);
    this.note(`The decision on ${item.file} is withdrawn.`);
  }

  fix() {
    this.sheet.remember();
    this.mode = "fix";
  }

  fixed(keep) {
    this.mode = "look";
    if (!keep) this.sheet.undo();
    else if (!this.sheet.object.label) this.choose();
  }

  choose() {
    this.mode = "label";
    this.chooser.open();
  }

  chosen(label) {
    this.mode = "look";
    const isNew = !this.sheet.object.label;
    if (label === null && isNew) this.sheet.undo();
    else if (label !== null && isNew) this.sheet.replace({ label });
    else if (label !== null) this.sheet.relabel(label);
    if (label !== null && !this.labels.includes(label)) this.labels.push(label);
    this.render();
    this.focus();
  }

  // Add a box; its label is chosen after its place.
  add() {
    this.sheet.add("");
    this.mode = "fix";
  }

  drag(from, to) {
    if (this.mode !== "fix" || this.busy) return;
    this.sheet.span(from, to);
    this.render();
  }

  // Show a picture, or the end. Returns when the picture is visible, so that no key decides on an unseen one.
  async show(item) {
    this.mode = "look";
    this.shown = false;
    this.count(item);
    if (item.number === undefined) {
      this.item = this.sheet = null;
      this.view.end(`All ${item.total} pictures are reviewed`, this.command);
      return;
    }
    this.item = item;
    this.sheet = new Sheet(item.objects, item.edits ?? null);
    keep([item.number, ...item.upcoming]);
    let images = [];
    try {
      const image = await picture(item.number);
      images = this.view.stages.map((_, place) => (place ? image.cloneNode() : image));
      await Promise.all(images.map((one) => one.decode()));
      this.shown = true;
    } finally {
      this.view.show(item, images);
      for (const number of item.upcoming) picture(number).catch(() => {});
    }
    this.focus();
  }

  count({ reviewed, total }) {
    const progress = document.getElementById("progress");
    progress.max = total;
    progress.value = reviewed;
    setText(document.getElementById("count"), `${reviewed} of ${total}`);
  }

  focus() {
    const pictures = document.getElementById("pictures");
    pictures.tabIndex = -1;
    pictures.focus({ preventScroll: true });
  }

  render() {
    if (this.sheet) this.view.render(this.sheet, this.mode);
    const buttons = this.actions.map(([key, shown, name, act]) => h("button", { type: "button", "data-key": key, onclick: (event) => this.click(event, act) }, `${name} `, h("kbd", { textContent: shown })));
    const bar = document.getElementById("actions");
    const focused = bar.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    bar.replaceChildren(...buttons);
    if (focused) (buttons.find((one) => one.dataset.key === focused) ?? buttons[0])?.focus();
    const shown = this.labels.slice(0, DIGITS).map((label, place) => h("span", {}, h("kbd", { textContent: String(place + 1) }), ` ${label}`));
    const select = this.sheet?.objects.length > 1 ? [h("span", {}, h("kbd", { textContent: "↑" }), h("kbd", { textContent: "↓" }), " select")] : [];
    document.getElementById("labels").replaceChildren(...select, ...shown);
    if (this.mode === "fix") this.note(FIXING);
  }

  click(event, act) {
    if (this.busy) return;
    this.run(act);
    if (event.detail) this.focus(); // a click with the pointer; a click by the keyboard leaves the focus on its button
  }

  note(text, bad = false) {
    const note = document.getElementById("note");
    note.className = bad ? "note bad" : "note";
    setText(note, text);
  }
}

async function start() {
  try {
    const review = new Review(await get("api/review"));
    await review.run(async () => review.show(await get("api/review/next")));
  } catch (error) {
    const note = document.getElementById("note");
    note.className = "note bad";
    setText(note, error.message);
  }
}

start();
