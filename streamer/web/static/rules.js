// The list of rules with their state.

import { h, setText } from "./dom.js";
import { moment } from "./format.js";

export class Rules {
  constructor(root, onChange) {
    this.onChange = onChange;
    this.rows = new Map();
    this.list = h("ul", { className: "rules" });
    root.append(h("header", {}, h("h2", { textContent: "Rules" })), this.list);
  }

  update(rules) {
    if (rules.map((rule) => rule.name).join() !== [...this.rows.keys()].join()) {
      this.rows = new Map(rules.map((rule) => [rule.name, new Row(rule, this.onChange)]));
      this.list.replaceChildren(...[...this.rows.values()].map((row) => row.element));
    }
    for (const rule of rules) this.rows.get(rule.name).update(rule);
  }
}

class Row {
  constructor(rule, onChange) {
    this.onChange = onChange;
    this.state = h("span", { className: "badge" });
    this.facts = h("p", { className: "facts" });
    this.condition = h("p", { className: "said" });
    this.precision = h("p", { className: "facts" });
    this.element = h("li", { className: "rule", ariaLabel: `Rule ${rule.name}` },
      h("div", { className: "head" }, h("h3", { textContent: rule.name }), this.state), this.condition, this.facts, this.precision);
  }

  update(rule) {
    const { text, tone } = state(rule);
    setText(this.state, text);
    this.state.className = `badge ${tone}`;
    setText(this.condition, rule.condition);
    setText(this.facts, facts(rule));
    setText(this.precision, precision(rule));
  }
}

function state(rule) {
  if (rule.open) return { text: rule.open > 1 ? `${rule.open} open` : "open", tone: "wait" };
  return { text: "active", tone: "good" };
}

// Return the precision of the rule as it is now, and of all its earlier definitions.
function precision(rule) {
  const words = ({ right, wrong, share }) => `${Math.round(100 * share)} % right (${right} right, ${wrong} wrong)`;
  const { precision: now, precision_ever: ever } = rule;
  if (ever.share === null) return "No feedback yet.";
  if (now.share === null) return `Feedback before the rule was changed: ${words(ever)}.`;
  const before = ever.right + ever.wrong > now.right + now.wrong ? ` With earlier definitions: ${words(ever)}.` : "";
  return `Feedback: ${words(now)}.${before}`;
}

function facts(rule) {
  const parts = [rule.streams.join(", "), `severity ${rule.severity}`];
  if (rule.between) parts.push(`between ${rule.between}`);
  parts.push(rule.last ? `last incident ${moment(rule.last)}` : "no incident yet");
  return parts.join(" · ");
}
