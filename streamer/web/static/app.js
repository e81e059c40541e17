// The page: polls the state of the streams once a second and follows the events.

import { Cameras } from "./cameras.js";
import { setText } from "./dom.js";
import { Events } from "./events.js";
import { state } from "./format.js";
import { Alerts } from "./alerts.js";

const POLL_MS = 1000;

const connection = document.getElementById("connection");
const cameras = new Cameras(document.getElementById("cameras"));
const events = new Events(document.getElementById("events"));
const alerts = new Alerts();
let timer = null;
let agentStarted = null;

function showConnection(text, tone) {
  setText(connection, text);
  connection.className = tone;
}

// Show the devices, of which the agent sends a list if it has several: the number of streams, or that one is not up.
function showDevices(devices, streams) {
  const element = document.getElementById("devices");
  const texts = devices.map((device) => {
    const number = streams.filter((stream) => stream.device === device.name).length;
    return `${device.name}: ${device.state === "up" ? `${number} stream${number === 1 ? "" : "s"}` : device.state}`;
  });
  setText(element, texts.join(" · "));
  element.title = devices.map((device) => device.reason).filter(Boolean).join("\n");
  element.className = devices.some((device) => device.state === "restarting") ? "bad" : "";
}

// Show the hosts of a cluster: their number, or those that give no answer.
function showHosts(hosts) {
  const element = document.getElementById("hosts");
  const lost = hosts.filter((host) => host.state !== "up");
  setText(element, lost.length ? lost.map((host) => `${host.name} ${host.state}`).join(" · ") : hosts.length ? `${hosts.length} hosts` : "");
  element.title = lost.map((host) => `${host.name}: ${host.reason}`).join("\n");
  element.className = lost.length ? "bad" : "";
}

async function poll() {
  clearTimeout(timer);
  let problem = "no connection to the agent";
  try {
    const response = await fetch("api/streams", { signal: AbortSignal.timeout(5000) });
    if (response.status === 401) return location.reload(); // the token has changed: show the login form
    if (response.status === 503) problem = "too many pages or players are open";
    if (!response.ok) throw new Error(response.statusText);
    const { agent, started, devices, hosts, streams, rules } = await response.json();
    document.title = `${agent} · streamer`;
    setText(document.getElementById("agent"), agent);
    if (started !== agentStarted) cameras.restart();
    agentStarted = started;
    cameras.update(streams);
    alerts.update(rules);
    events.setChoices(streams);
    showDevices(devices, streams);
    showHosts(hosts ?? []);
    const live = streams.filter((stream) => state(stream).tone === "good").length;
    showConnection(`${live} of ${streams.length} live`, streams.some((stream) => state(stream).tone === "bad") ? "bad" : "good");
  } catch {
    showConnection(problem, "bad");
  }
  timer = setTimeout(poll, POLL_MS);
}

function onVisibility() {
  cameras.hide(document.hidden);
  if (document.hidden) {
    clearTimeout(timer);
    events.stop();
  } else {
    poll();
    events.start();
  }
  alerts.hide(document.hidden);
}

document.addEventListener("visibilitychange", onVisibility);
addEventListener("pageshow", (event) => event.persisted && onVisibility());
onVisibility();
