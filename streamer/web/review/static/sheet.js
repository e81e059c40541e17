// The objects of one picture while a person reviews them, with every change that can be undone. No access to the page.

const LEAST = 0.004; // smallest side of a box, in fractions of the picture

export class Sheet {
  // `sets`: the objects of each set. `edits`: an earlier decision on this picture, else null.
  constructor(sets, edits) {
    this.sets = sets;
    this.past = [];
    this.labels = edits?.labels ?? 0;
    this.objects = edits ? edits.objects.map((one) => ({ ...one, score: sets[this.labels][one.source]?.score })) : this.fresh(this.labels);
    this.selected = this.objects.length ? 0 : -1;
  }

  get object() {
    return this.objects[this.selected];
  }

  fresh(labels) {
    return this.sets[labels].map((one, source) => ({ ...one, source, wrong: false }));
  }

  // Return "", "wrong", "changed" or "added".
  stateOf(object) {
    if (object.wrong) return "wrong";
    if (object.source === null) return "added";
    const before = this.sets[this.labels][object.source];
    const moved = before.box.some((value, place) => Math.abs(value - object.box[place]) > 1e-5);
    return moved || before.label !== object.label ? "changed" : "";
  }

  select(place) {
    if (this.objects.length) this.selected = (place + this.objects.length) % this.objects.length;
  }

  remember() {
    const { labels, objects, selected } = this;
    this.past.push({ labels, objects, selected });
  }

  undo() {
    const last = this.past.pop();
    if (last) Object.assign(this, last);
    return Boolean(last);
  }

  replace(changes) {
    this.objects = this.objects.map((one, place) => (place === this.selected ? { ...one, ...changes } : one));
  }

  // Mark the object as wrong, or as right again, and go on to the next one. An added object is removed.
  toggleWrong() {
    this.remember();
    if (this.object.source === null) {
      this.objects = this.objects.filter((_, place) => place !== this.selected);
      this.selected = Math.min(this.selected, this.objects.length - 1);
    } else {
      this.replace({ wrong: !this.object.wrong });
      if (this.selected + 1 < this.objects.length) this.selected += 1;
    }
  }

  relabel(label) {
    this.remember();
    this.replace({ label, wrong: false });
  }

  add(label) {
    this.remember();
    this.objects = [...this.objects, { label, box: [0.4, 0.4, 0.6, 0.6], source: null, wrong: false }];
    this.selected = this.objects.length - 1;
  }

  // Review the other set instead.
  swap() {
    this.remember();
    this.labels = (this.labels + 1) % this.sets.length;
    this.objects = this.fresh(this.labels);
    this.selected = this.objects.length ? 0 : -1;
  }

  // Move the box, or its right and lower side only, by fractions of the picture. It stays in the picture.
  move(dx, dy, resize) {
    let [x0, y0, x1, y1] = this.object.box;
    if (resize) {
      x1 = clamp(x1 + dx, x0 + LEAST, 1);
      y1 = clamp(y1 + dy, y0 + LEAST, 1);
    } else {
      dx = clamp(dx, -x0, 1 - x1);
      dy = clamp(dy, -y0, 1 - y1);
      [x0, y0, x1, y1] = [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
    }
    this.replace({ box: [x0, y0, x1, y1], wrong: false });
  }

  // Make the box span two points.
  span([ax, ay], [bx, by]) {
    const [x0, y0] = [clamp(Math.min(ax, bx), 0, 1 - LEAST), clamp(Math.min(ay, by), 0, 1 - LEAST)];
    this.replace({ box: [x0, y0, clamp(Math.max(ax, bx), x0 + LEAST, 1), clamp(Math.max(ay, by), y0 + LEAST, 1)], wrong: false });
  }

  // Return the decision as the server takes it.
  decision(number) {
    const objects = this.objects.map(({ label, box, source, wrong }) => ({ label, box: box.map((value) => Math.round(value * 1e6) / 1e6), source, wrong }));
    return { number, labels: this.labels, objects };
  }
}

function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
}
