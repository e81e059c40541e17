// Draw a sheet: the picture with the boxes of each set, and the list of objects.

import { h, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WORDS = { wrong: "wrong", changed: "changed", added: "added", "": "" };

export class View {
  // `select`: called with the place of an object that was clicked. `span`: called with two points of a drag.
  constructor(sets, select, span) {
    this.select = select;
    this.root = document.getElementById("pictures");
    this.list = document.getElementById("objects");
    this.stages = sets.map((name, place) => new Stage(name, sets.length > 1 ? ["left", "right"][place] : "", span));
    this.root.classList.toggle("two", sets.length > 1);
  }

  // `images`: one loaded image per stage, or none.
  show(item, images) {
    document.getElementById("side").hidden = false;
    this.root.replaceChildren(...this.stages.map((one) => one.element));
    setText(document.getElementById("file"), item.file);
    setText(document.getElementById("why"), item.why && `Why now: ${item.why}`);
    this.stages.forEach((stage, place) => stage.show(images[place]));
  }

  // Show that there is no picture left.
  end(title, command) {
    document.getElementById("side").hidden = true;
    this.root.replaceChildren(h("div", { className: "end" }, h("h2", { textContent: title }), h("p", { textContent: "Use the labels:" }), h("pre", { textContent: command })));
  }

  render(sheet, mode) {
    this.stages.forEach((stage, place) => {
      const active = place === sheet.labels;
      const objects = active ? sheet.objects : sheet.fresh(place);
      stage.render(objects.map((one, number) => ({
        ...one,
        tone: active ? sheet.stateOf(one) : "",
        selected: active && number === sheet.selected,
      })), active, mode);
    });
    this.list.replaceChildren(...sheet.objects.map((one, place) => this.row(sheet, one, place)));
    this.list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  row(sheet, one, place) {
    const tone = sheet.stateOf(one);
    const score = typeof one.score === "number" ? one.score.toFixed(2) : "";
    return h("li", {}, h("button", {
      type: "button",
      className: tone,
      tabIndex: -1, // arrow keys select
      "aria-current": place === sheet.selected ? "true" : null,
      onclick: () => this.select(place),
    }, h("span", { className: "name", textContent: one.label }), h("span", { className: "soft", textContent: WORDS[tone] }), h("span", { className: "age", textContent: score })));
  }
}

// One picture with the boxes of one set.
class Stage {
  constructor(name, side, span) {
    this.boxes = document.createElementNS(SVG, "svg");
    this.boxes.setAttribute("viewBox", "0 0 1 1");
    this.boxes.setAttribute("preserveAspectRatio", "none");
    this.boxes.setAttribute("aria-hidden", "true");
    this.names = h("div", { className: "names", "aria-hidden": "true" });
    this.canvas = h("div", { className: "canvas" });
    this.element = h("figure", { className: "stage" }, h("figcaption", { textContent: side ? `${side}: ${name}` : name }), this.canvas);
    this.dragging = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.element.classList.contains("fixing")) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.dragging = this.point(event);
    });
    this.canvas.addEventListener("pointermove", (event) => this.dragging && span(this.dragging, this.point(event)));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.dragging = null));
  }

  point(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  show(image) {
    this.canvas.hidden = !image;
    if (!image) return;
    this.canvas.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
    this.canvas.replaceChildren(image, this.boxes, this.names);
  }

  render(objects, active, mode) {
    this.element.classList.toggle("active", active);
    this.element.classList.toggle("fixing", active && mode === "fix");
    const order = [...objects].sort((a, b) => a.selected - b.selected); // the selected box is drawn last
    this.boxes.replaceChildren(...order.flatMap((one) => [rectangle(one, "under"), rectangle(one, "over")]));
    this.names.replaceChildren(...order.map((one) => {
      const name = h("span", { className: `${one.tone} ${one.selected ? "selected" : ""}`, textContent: one.label });
      name.style.left = `${one.box[0] * 100}%`;
      name.style.top = `${one.box[1] * 100}%`;
      name.classList.toggle("inside", one.box[1] < 0.06);
      return name;
    }));
  }
}

function rectangle({ box, tone, selected }, layer) {
  const element = document.createElementNS(SVG, "rect");
  const [x0, y0, x1, y1] = box;
  for (const [key, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) element.setAttribute(key, value);
  element.setAttribute("class", `${layer} ${tone} ${selected ? "selected" : ""}`);
  return element;
}
