// Choose a label by typing a part of it. A text that no label has becomes a new label.

import { h } from "./dom.js";

const SHOWN = 9;

export class Chooser {
  // `labels`: the known labels. `done`: called with the chosen label, or null.
  constructor(labels, done) {
    this.labels = labels;
    this.done = done;
    this.element = document.getElementById("chooser");
    this.input = document.getElementById("label");
    this.list = document.getElementById("choices");
    this.input.addEventListener("input", () => this.filter());
  }

  open() {
    this.element.hidden = false;
    this.input.value = "";
    this.filter();
    this.input.focus();
  }

  close(label) {
    this.element.hidden = true;
    this.done(label);
  }

  filter() {
    const text = this.input.value.trim();
    const lower = text.toLowerCase();
    const known = this.labels.filter((label) => label.toLowerCase().includes(lower));
    const rank = (label) => (label === text ? 0 : label.toLowerCase().startsWith(lower) ? 1 : 2);
    this.choices = known.sort((a, b) => rank(a) - rank(b)).slice(0, SHOWN).map((label) => ({ label, text: label }));
    if (text && !this.labels.includes(text)) this.choices.push({ label: text, text: `new label: ${text}` });
    this.chosen = 0;
    this.render();
  }

  render() {
    this.list.replaceChildren(...this.choices.map((choice, place) => h("li", {
      id: `choice-${place}`,
      role: "option",
      "aria-selected": String(place === this.chosen),
      textContent: choice.text,
      onclick: () => this.close(choice.label),
    })));
    if (this.choices.length) this.input.setAttribute("aria-activedescendant", `choice-${this.chosen}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  // Take a key; return whether it was used. `typed`: the key was pressed before the field had the focus.
  key(name, typed) {
    if (name === "Enter") {
      if (this.choices.length) this.close(this.choices[this.chosen].label);
    } else if (name === "Escape") {
      this.close(null);
    } else if (name === "ArrowDown" || name === "ArrowUp") {
      const step = name === "ArrowDown" ? 1 : this.choices.length - 1;
      this.chosen = this.choices.length ? (this.chosen + step) % this.choices.length : 0;
      this.render();
    } else if (typed && (name.length === 1 || name === "Backspace")) {
      this.input.value = name.length === 1 ? this.input.value + name : this.input.value.slice(0, -1);
      this.filter();
    } else {
      return false;
    }
    return true;
  }
}
