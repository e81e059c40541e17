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
    this.element = h("li", { className: "rule", ariaLabel: `Rule ${rule.name}` },
      h("div", { className: "head" }, h("h3", { textContent: rule.name }), this.state), this.condition, this.facts);
  }

  update(rule) {
    const { text, tone } = state(rule);
    setText(this.state, text);
    this.state.className = `badge ${tone}`;
    setText(this.condition, rule.condition);
    setText(this.facts, facts(rule));
  }
}

function state(rule) {
  if (rule.open) return { text: rule.open > 1 ? `${rule.open} open` : "open", tone: "wait" };
  return { text: "active", tone: "good" };
}

function facts(rule) {
  const parts = [rule.streams.join(", "), `severity ${rule.severity}`];
  if (rule.between) parts.push(`between ${rule.between}`);
  parts.push(rule.last ? `last incident ${moment(rule.last)}` : "no incident yet");
  return parts.join(" · ");
}
