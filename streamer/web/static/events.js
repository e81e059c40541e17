// The live list of events, newest first, filtered by stream, task and text.

import { h } from "./dom.js";
import { clock, isBad, summary } from "./format.js";

const SHOWN = 200;
const FIRST = 60;
const TYPING_MS = 250;

export class Events {
  constructor(root) {
    this.source = null;
    this.round = 0;
    this.known = "";
    this.stream = h("select", { name: "stream", ariaLabel: "Stream", onchange: () => this.start() });
    this.task = h("select", { name: "task", ariaLabel: "Task", onchange: () => this.start() });
    this.text = h("input", { name: "text", type: "search", placeholder: "Search", maxLength: 200, ariaLabel: "Text", autocomplete: "off",
      oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.start(), TYPING_MS); } });
    this.list = h("ol", { className: "list" });
    this.note = h("p", { className: "none soft", role: "status", hidden: true });
    this.empty = h("p", { className: "none soft", textContent: "No events yet." });
    root.append(
      h("header", {}, h("h2", { textContent: "Events" }),
        h("form", { className: "filter", onsubmit: (event) => event.preventDefault() }, this.stream, this.task, this.text)),
      this.note, this.empty, this.list);
  }

  // Set the choices of the filter.
  setChoices(streams) {
    const names = streams.map((stream) => stream.name);
    const tasks = [...new Set(streams.flatMap((stream) => stream.tasks.map((task) => task.name)))];
    const known = JSON.stringify([names, tasks]);
    if (known === this.known) return;
    this.known = known;
    fill(this.stream, "all streams", names);
    fill(this.task, "all tasks", tasks);
  }

  stop() {
    this.round += 1;
    this.source?.close();
    this.source = null;
  }

  // Show the newest events, then follow new ones.
  async start() {
    this.stop();
    const round = this.round;
    const query = new URLSearchParams();
    for (const one of [this.stream, this.task, this.text]) if (one.value.trim()) query.set(one.name, one.value.trim());
    let page;
    try {
      const response = await fetch(`api/events?${query}&limit=${FIRST}`);
      if (response.status === 503) this.say("too many searches at once, trying again");
      if (!response.ok) throw new Error(response.statusText);
      page = await response.json();
    } catch {
      if (round === this.round) setTimeout(() => round === this.round && this.start(), 2000);
      return;
    }
    if (round !== this.round) return;
    this.say(page.note);
    this.list.replaceChildren(...page.events.reverse().map(({ event }) => rowOf(event)));
    this.showEmpty(query.size > 0);
    this.source = new EventSource(`api/events/live?${query}&after=${page.position}`);
    this.source.onerror = () => {
      if (this.source?.readyState === EventSource.CLOSED) setTimeout(() => round === this.round && this.start(), 2000);
    };
    this.source.onmessage = (message) => {
      this.list.prepend(rowOf(JSON.parse(message.data), true));
      while (this.list.children.length > SHOWN) this.list.lastElementChild.remove();
      this.showEmpty(query.size > 0);
    };
  }

  // Show a note on the list, or none.
  say(note) {
    this.note.textContent = note ?? "";
    this.note.hidden = !note;
  }

  showEmpty(filtered) {
    this.empty.hidden = this.list.children.length > 0;
    this.empty.textContent = filtered ? "No event matches the filter." : "No events yet.";
  }
}

function fill(select, all, names) {
  const before = select.value;
  select.replaceChildren(h("option", { value: "", textContent: all }), ...names.map((name) => h("option", { value: name, textContent: name })));
  select.value = names.includes(before) ? before : "";
  select.hidden = names.length < 2;
}

// Return the row of an event, also of one that this page cannot read.
function rowOf(event, fresh = false) {
  try {
    return row(event, fresh);
  } catch {
    return h("li", { className: "event status" }, h("pre", { textContent: JSON.stringify(event, null, 2) }));
  }
}

function row(event, fresh = false) {
  const data = event.data;
  const delay = data.timing?.age_ms;
  const details = h("details", {},
    h("summary", {},
      h("time", { dateTime: event.time, title: event.time, textContent: clock(event.time) }),
      h("span", { className: "from" }, data.stream ? h("b", { textContent: data.stream }) : null, ` ${event.subject}`),
      h("span", { className: "age", title: "from capture to publication", textContent: typeof delay === "number" ? `${Math.round(delay)} ms` : "" }),
      h("span", { className: "said", textContent: summary(event) })));
  details.addEventListener("toggle", () => {
    if (details.children.length < 2) details.append(h("pre", { textContent: JSON.stringify(event, null, 2) }));
  }, { once: true });
  const kind = event.type === "streamer.result.v1" ? "result" : "status";
  return h("li", { className: `event ${kind}${isBad(event) ? " bad" : ""}${fresh ? " fresh" : ""}`, id: `event-${event.id}` }, details);
}
