// The list of incidents, newest first.

import { h, setText } from "./dom.js";
import { age, moment } from "./format.js";

export class Incidents {
  constructor(root, onChange) {
    this.onChange = onChange;
    this.rows = new Map();
    this.list = h("ol", { className: "incidents" });
    this.empty = h("p", { className: "none soft", textContent: "No incidents yet." });
    root.append(h("header", {}, h("h2", { textContent: "Incidents" })), this.empty, this.list);
  }

  update({ complete, incidents }) {
    setText(this.empty, complete ? "No incidents yet." : "Reading the past events …");
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
    this.details = h("details", {}, h("summary", { textContent: "Why" }), this.why);
    this.element = h("li", { className: "incident", id: `incident-${incident.incident}` },
      h("div", { className: "body" }, h("div", { className: "top" }, this.severity, this.text), this.where, this.details));
  }

  update(incident) {
    setText(this.severity, incident.severity);
    this.severity.className = `severity ${incident.severity}`;
    setText(this.text, incident.text);
    this.element.classList.toggle("open-now", incident.open);
    setText(this.where, facts(incident));
    const known = JSON.stringify([incident.why, incident.best]);
    if (known === this.known) return;
    this.known = known;
    this.why.replaceChildren(...reasons(incident).map((words) => h("li", { textContent: words })));
  }
}

function facts(incident) {
  const lasting = `${incident.open ? "open for" : "lasted"} ${age(incident.seconds)}`;
  return [incident.stream, moment(incident.started), lasting, `rule ${incident.rule}`,
    incident.acknowledged ? `acknowledged by ${incident.acknowledged}` : null,
    incident.verdict ? `judged ${incident.verdict}` : null].filter(Boolean).join(" · ");
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
