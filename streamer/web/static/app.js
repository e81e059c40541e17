// The page: asks once a second how the cameras are, and follows the events.

import { Cameras } from "./cameras.js";
import { say } from "./dom.js";
import { Events } from "./events.js";
import { state } from "./words.js";

const POLL_MS = 1000;

const connection = document.getElementById("connection");
const cameras = new Cameras(document.getElementById("cameras"));
const events = new Events(document.getElementById("events"));
let timer = null;
let since = null;

function tell(words, tone) {
  say(connection, words);
  connection.className = tone;
}

async function poll() {
  clearTimeout(timer);
  try {
    const response = await fetch("/api/streams", { signal: AbortSignal.timeout(5000) });
    if (response.status === 401) return location.reload(); // the token has changed: ask for it
    if (!response.ok) throw new Error(response.statusText);
    const { agent, started, streams } = await response.json();
    document.title = `${agent} · streamer`;
    say(document.getElementById("agent"), agent);
    if (started !== since) cameras.restart();
    since = started;
    cameras.update(streams);
    events.offer(streams);
    const live = streams.filter((stream) => state(stream).tone === "good").length;
    tell(`${live} of ${streams.length} live`, streams.some((stream) => state(stream).tone === "bad") ? "bad" : "good");
  } catch {
    tell("no connection to the program", "bad");
  }
  timer = setTimeout(poll, POLL_MS);
}

function wake() {
  cameras.hide(document.hidden);
  if (document.hidden) {
    clearTimeout(timer);
    events.stop();
  } else {
    poll();
    events.start();
  }
}

document.addEventListener("visibilitychange", wake);
addEventListener("pageshow", (event) => event.persisted && wake());
wake();
