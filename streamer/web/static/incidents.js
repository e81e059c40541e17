// The list of incidents, newest first.

import { h, setText } from "./dom.js";
import { age, moment } from "./format.js";
import { command, snooze } from "./commands.js";

export class Incidents {
  constructor(root, onChange) {
    this.onChange = onChange;
    this.rows = new Map();
    this.list = h("ol", { className: "incidents" });
    this.empty = h("p", { className: "none soft", textContent: "No incidents yet." });
    this.note = h("p", { className: "note bad", role: "status" });
    root.append(h("header", {}, h("h2", { textContent: "Incidents" }), this.note), this.empty, this.list);
  }

  update({ complete, note, incidents }) {
    setText(this.note, note ?? "");
    setText(this.empty, complete || note ? "No incidents yet." : "Reading the past events …");
    this.empty.hidden = incidents.length > 0;
    const before = this.rows;
    this.rows = new Map(incidents.map((one) => [one.incident, before.get(one.incident) ?? new Row(one, this.onChange)]));
    for (const [id, row] of before) if (!this.rows.has(id)) row.element.remove();
    incidents.forEach((one, place) => {
      const row = this.rows.get(one.incident);
      row.update(one);
      if (this.list.children[place] !== row.element) this.list.insertBefore(row.element, this.list.children[place] ?? null);
    });
  }
}

class Row {
  constructor(incident, onChange) {
    this.onChange = onChange;
    this.severity = h("span", { className: "severity" });
    this.text = h("h3", { className: "said" });
    this.where = h("p", { className: "facts" });
    this.why = h("ul", { className: "why" });
    this.note = h("p", { className: "note", role: "status" });
    const send = (path, body) => command(this.note, path, body).then(() => this.onChange());
    const { incident: id } = incident;
    const host = incident.host ? `?host=${incident.host}` : "";
    const button = (text, act) => h("button", { type: "button", textContent: text, onclick: act });
    this.acknowledge = button("Acknowledge", () => send(`api/rules/ack${host}`, { incident: id }));
    this.verdicts = ["right", "wrong"].map((verdict) => {
      const one = button(verdict === "right" ? "Right" : "Wrong", () => send(`api/rules/feedback${host}`, { incident: id, verdict }));
      one.value = verdict;
      return one;
    });
    this.buttons = h("div", { className: "buttons" }, this.acknowledge, ...this.verdicts, snooze([
      [`${incident.rule} at ${incident.stream}`, { rule: incident.rule, stream: incident.stream }],
      [`camera ${incident.stream}`, { stream: incident.stream }],
      ["all rules", {}],
    ], (body) => send("api/rules/snooze", body)));
    this.details = h("details", {}, h("summary", { textContent: "Why" }), this.why);
    this.picture = h("img", { className: "thumb", alt: "", loading: "lazy", onerror: () => (this.picture.hidden = true) });
    this.link = h("a", { target: "_blank", rel: "noopener", hidden: true }, this.picture);
    this.element = h("li", { className: "incident", id: `incident-${incident.incident}` },
      this.link, h("div", { className: "body" }, h("div", { className: "top" }, this.severity, this.text), this.where, this.details, this.buttons, this.note));
  }

  update(incident) {
    setText(this.severity, incident.severity);
    this.severity.className = `severity ${incident.severity}`;
    setText(this.text, incident.text);
    this.element.classList.toggle("open-now", incident.open);
    setText(this.where, facts(incident));
    this.show(incident);
    this.acknowledge.hidden = !incident.open || Boolean(incident.acknowledged);
    for (const one of this.verdicts) one.ariaPressed = String(one.value === incident.verdict);
    const known = JSON.stringify([incident.why, incident.best]);
    if (known === this.known) return;
    this.known = known;
    this.why.replaceChildren(...reasons(incident).map((words) => h("li", { textContent: words })));
  }

  // Show the best frame, if a snapshot of it is kept; load another one only for a better frame.
  show({ best, event, text, host }) {
    this.link.hidden = !best.snapshot;
    if (!best.snapshot || this.frame === best.event) return;
    this.frame = best.event;
    this.picture.hidden = false;
    this.picture.alt = `Best frame: ${text}`;
    this.picture.src = this.link.href = `api/snapshots/${event}.jpg?boxes=true${host ? `&host=${host}` : ""}`;
  }
}

function facts(incident) {
  const lasting = `${incident.open ? "open for" : "lasted"} ${age(incident.seconds)}`;
  return [incident.stream, incident.host && `on ${incident.host}`, moment(incident.started), lasting, `rule ${incident.rule}`,
    incident.acknowledged ? `acknowledged by ${incident.acknowledged}` : null].filter(Boolean).join(" · ");
}

// Return why the incident was made, in sentences.
function reasons(incident) {
  const found = incident.why.map((one) => {
    const parts = [];
    if (one.value !== null) parts.push(one.threshold ? `${number(one.value)} (needs ${one.threshold})` : number(one.value));
    if (one.score !== null) parts.push(`score ${one.score.toFixed(2)}${limits(one)}`);
    if (one.model) parts.push(`model ${one.model}`);
    return `${one.condition}${parts.length ? `: ${parts.join(", ")}` : ""}.`;
  });
  const { label, score } = incident.best;
  if (label) found.push(`Best frame: ${label}${score === null ? "" : `, score ${score.toFixed(2)}`}.`);
  found.push(`${incident.answers} ${incident.answers === 1 ? "answer" : "answers"} met the condition, at most ${incident.count} at once.`);
  if (incident.reason) found.push(`Last change: ${incident.reason}.`);
  return found;
}

function limits({ min_score: lowest, clear_score: stays }) {
  if (lowest === null) return "";
  return stays !== null && stays !== lowest ? ` (starts at ${lowest}, stays from ${stays})` : ` (needs ${lowest})`;
}

function number(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
