// The list of rules with their state.

import { h, setText } from "./dom.js";
import { moment } from "./format.js";
import { command, snooze } from "./commands.js";
import { PushSwitch } from "./push.js";

export class Rules {
  constructor(root, onChange) {
    this.onChange = onChange;
    this.rows = new Map();
    this.list = h("ul", { className: "rules" });
    this.note = h("p", { className: "note", role: "status" });
    this.hosts = h("p", { className: "note bad", role: "status" });
    this.mode = h("select", { ariaLabel: "Mode", onchange: () =>
      command(this.note, "api/rules/mode", { mode: this.mode.value }).then(() => this.onChange()) });
    this.modes = h("label", { className: "mode", hidden: true }, "Mode ", this.mode);
    root.append(h("header", {}, h("h2", { textContent: "Rules" }), this.modes, this.note, this.hosts), new PushSwitch().element, this.list);
  }

  // `state`: what the rules process knows, null while it does not answer.
  update(rules, state) {
    this.showMode(state);
    setText(this.hosts, state?.note ?? "");
    if (rules.map((rule) => rule.name).join() !== [...this.rows.keys()].join()) {
      this.rows = new Map(rules.map((rule) => [rule.name, new Row(rule, this.onChange)]));
      this.list.replaceChildren(...[...this.rows.values()].map((row) => row.element));
    }
    for (const rule of rules) this.rows.get(rule.name).update(rule, state);
  }

  showMode(state) {
    const modes = state?.modes ?? [];
    this.modes.hidden = modes.length === 0;
    if (modes.join() !== [...this.mode.options].map((option) => option.value).join()) {
      this.mode.replaceChildren(...modes.map((mode) => h("option", { value: mode, textContent: mode })));
    }
    if (state?.mode && document.activeElement !== this.mode) this.mode.value = state.mode;
  }
}

class Row {
  constructor(rule, onChange) {
    this.onChange = onChange;
    this.state = h("span", { className: "badge" });
    this.facts = h("p", { className: "facts" });
    this.condition = h("p", { className: "said" });
    this.precision = h("p", { className: "facts" });
    this.note = h("p", { className: "note", role: "status" });
    const send = (body) => command(this.note, "api/rules/snooze", body).then(() => this.onChange());
    this.wake = h("button", { type: "button", textContent: "End snooze", hidden: true, onclick: () => send({ rule: rule.name, off: true }) });
    this.buttons = h("div", { className: "buttons" }, snooze([[rule.name, { rule: rule.name }]], send), this.wake);
    this.element = h("li", { className: "rule", ariaLabel: `Rule ${rule.name}` },
      h("div", { className: "head" }, h("h3", { textContent: rule.name }), this.state), this.condition, this.facts, this.precision, this.buttons, this.note);
  }

  update(rule, known) {
    const snoozes = (known?.snoozes ?? []).filter((one) => (one.rule ?? rule.name) === rule.name && (!one.stream || rule.streams.includes(one.stream)));
    const { text, tone } = state(rule, known?.rules[rule.name], snoozes);
    setText(this.state, text);
    this.state.className = `badge ${tone}`;
    setText(this.condition, rule.condition);
    setText(this.facts, facts(rule, snoozes, known?.rules[rule.name]?.words ?? {}));
    setText(this.precision, precision(rule));
    this.wake.hidden = !snoozes.some((one) => one.rule === rule.name);
  }
}

// Return text and tone of the badge. `known`: the rule as the rules process knows it.
function state(rule, known, snoozes) {
  if (rule.open) return { text: rule.open > 1 ? `${rule.open} open` : "open", tone: "wait" };
  if (known && !known.armed) return { text: `not armed, needs mode ${known.modes.join(" or ")}`, tone: "idle" };
  const whole = snoozes.filter((one) => !one.stream).map((one) => one.until).sort().pop();
  if (whole) return { text: `snoozed until ${moment(whole)}`, tone: "idle" };
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

// `words`: those of the rule's `state` by stream, null for no answer.
function facts(rule, snoozes, words) {
  const parts = [rule.streams.join(", "), `severity ${rule.severity}`];
  for (const [stream, word] of Object.entries(words)) parts.push(`${word ?? "no answer"} at ${stream}`);
  if (rule.between) parts.push(`between ${rule.between}`);
  for (const one of snoozes) {
    if (one.stream || rule.open) parts.push(`snoozed ${one.stream ? `at ${one.stream} ` : ""}until ${moment(one.until)}`);
  }
  parts.push(rule.last ? `last incident ${moment(rule.last)}` : "no incident yet");
  return parts.join(" · ");
}
