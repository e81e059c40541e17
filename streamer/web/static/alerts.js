// The view of incidents and rules. It is polled while it is open; the number of open incidents comes with the streams.

import { setText } from "./dom.js";
import { Incidents } from "./incidents.js";
import { Rules } from "./rules.js";

const POLL_MS = 2000;
const PLACE = "#/incidents";

export class Alerts {
  constructor() {
    this.hidden = false;
    this.timer = null;
    this.incidents = new Incidents(document.getElementById("incidents"), () => this.poll());
    this.rules = new Rules(document.getElementById("rules"), () => this.poll());
    addEventListener("hashchange", () => this.show());
    this.show();
  }

  // Take the number of rules and of open incidents.
  update(rules) {
    document.getElementById("views").hidden = rules.count === 0;
    const open = document.getElementById("open");
    setText(open, String(rules.open));
    open.hidden = rules.open === 0;
    open.title = `${rules.open} open`;
  }

  hide(hidden) {
    this.hidden = hidden;
    this.poll();
  }

  show() {
    const chosen = location.hash === PLACE;
    document.getElementById("watch").hidden = chosen;
    document.getElementById("alerts").hidden = !chosen;
    for (const link of document.querySelectorAll("#views a")) {
      if ((link.getAttribute("href") === PLACE) === chosen) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (this.hidden || location.hash !== PLACE) return;
    const round = (this.round = (this.round ?? 0) + 1);
    try {
      const signal = AbortSignal.timeout(5000);
      const [incidents, rules] = await Promise.all(["api/incidents", "api/rules"].map(async (url) => {
        const response = await fetch(url, { signal });
        if (!response.ok) throw new Error(response.statusText);
        return response.json();
      }));
      const answer = await fetch("api/rules/state", { signal });
      const state = answer.ok ? await answer.json() : null; // the rules process may be starting
      if (round !== this.round) return;
      this.incidents.update(incidents);
      this.rules.update(rules.rules, state);
    } catch {
      // the header shows that there is no connection
    }
    if (round === this.round) this.timer = setTimeout(() => this.poll(), POLL_MS);
  }
}
