// Send commands to the rules, and offer the choices of a snooze.

import { h, setText } from "./dom.js";

const MORNING = 7; // o'clock, local time

// Send a command and write its effect, or why it was refused, into a note. Return whether it took effect.
export async function command(note, path, body) {
  note.className = "note";
  setText(note, "Sending …");
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body ?? {}),
      signal: AbortSignal.timeout(8000),
    });
    if (response.status === 401) location.reload(); // the token has changed: show the login form
    const text = await response.text();
    let answer = {};
    try {
      answer = JSON.parse(text);
    } catch {
      answer = { detail: text };
    }
    if (!response.ok) throw new Error(answer.detail || response.statusText);
    setText(note, `${answer.done}.`);
    return true;
  } catch (error) {
    note.className = "note bad";
    setText(note, error.name === "TimeoutError" || error instanceof TypeError ? "No answer from the agent: try again." : error.message);
    return false;
  }
}

function untilMorning() {
  const morning = new Date();
  morning.setHours(MORNING, 0, 0, 0);
  if (morning <= Date.now()) morning.setDate(morning.getDate() + 1);
  return `${Math.ceil((morning - Date.now()) / 1000)}s`;
}

// Return a list to choose a snooze from. `subjects`: [text, body of the request].
export function snooze(subjects, send) {
  const times = [["1 hour", () => "1h"], ["until morning", untilMorning]];
  const choices = subjects.flatMap(([text, body]) => times.map(([time, duration]) => ({ text: `${text}, ${time}`, body: () => ({ ...body, for: duration() }) })));
  const list = h("select", { ariaLabel: "Snooze", onchange: () => {
    const choice = choices[list.value];
    list.value = "";
    if (choice) send(choice.body());
  } }, h("option", { value: "", textContent: "Snooze …" }), ...choices.map(({ text }, place) => h("option", { value: String(place), textContent: text })));
  return list;
}
