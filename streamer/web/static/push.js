// The switch of notifications in this browser.

import { command } from "./commands.js";
import { h, setText } from "./dom.js";

export class PushSwitch {
  constructor() {
    this.note = h("p", { className: "note", role: "status" });
    this.button = h("button", { type: "button", hidden: true, onclick: () => this.toggle() });
    this.element = h("div", { className: "push", hidden: true }, this.button, this.note);
    this.start();
  }

  // Show the switch if the config has a target for browsers.
  async start() {
    let response;
    try {
      response = await fetch("api/push");
    } catch {
      return;
    }
    if (!response.ok) return;
    this.key = (await response.json()).key;
    this.element.hidden = false;
    if (!isSecureContext) return setText(this.note, "Notifications in this browser need https, or the page opened on the agent's own computer.");
    if (!("serviceWorker" in navigator) || !("PushManager" in self)) return setText(this.note, "This browser has no web push.");
    this.worker = await navigator.serviceWorker.register("service-worker.js");
    this.show(await this.worker.pushManager.getSubscription());
  }

  show(subscription) {
    this.subscription = subscription;
    this.button.hidden = false;
    setText(this.button, subscription ? "Turn notifications off in this browser" : "Turn notifications on in this browser");
  }

  async toggle() {
    this.button.disabled = true;
    try {
      await (this.subscription ? this.off() : this.on());
    } catch (error) {
      this.note.className = "note bad";
      setText(this.note, `The browser refused: ${error.message}`);
    }
    this.button.disabled = false;
  }

  async on() {
    if ((await Notification.requestPermission()) !== "granted") {
      this.note.className = "note bad";
      return setText(this.note, "The browser blocks notifications of this page: allow them in its settings.");
    }
    await navigator.serviceWorker.ready;
    const subscription = await this.subscribe();
    const { endpoint, keys } = subscription.toJSON();
    if (await command(this.note, "api/push/subscribe", { endpoint, p256dh: keys.p256dh, auth: keys.auth })) this.show(subscription);
    else await subscription.unsubscribe();
  }

  // A subscription for another key, of an agent that was set up anew, is replaced.
  async subscribe() {
    const options = { userVisibleOnly: true, applicationServerKey: this.key };
    try {
      return await this.worker.pushManager.subscribe(options);
    } catch (error) {
      if (error.name !== "InvalidStateError") throw error;
      await (await this.worker.pushManager.getSubscription())?.unsubscribe();
      return this.worker.pushManager.subscribe(options);
    }
  }

  async off() {
    const { endpoint } = this.subscription;
    await this.subscription.unsubscribe();
    this.show(null);
    await command(this.note, "api/push/unsubscribe", { endpoint });
  }
}
