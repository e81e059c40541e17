// Format numbers, states and events as text.

import { plainCaption } from "./caption.js";

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(Math.max(0, seconds) * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

export function count(number) {
  return number.toLocaleString();
}

export function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour12: false });
}

// Return a time of the last day as a time of day, an older one with its date.
export function moment(time) {
  const at = new Date(time);
  const day = Date.now() - at < 20 * 3600 * 1000 ? {} : { month: "short", day: "numeric" };
  return at.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export function dropped(frames) {
  return Object.values(frames.dropped).reduce((sum, number) => sum + number, 0);
}

// Return the badge text and tone of a stream, and its problem or null.
export function state(stream) {
  switch (stream.state) {
    case "live":
      return stream.stalled
        ? { text: "stalled", tone: "bad", problem: `no frame for ${age(stream.frame_age_s)}` }
        : { text: "live", tone: "good", problem: null };
    case "down":
      return { text: `lost ${age(stream.state_age_s)} ago`, tone: "bad", problem: stream.reason ?? "camera not connected" };
    case "starting":
      return { text: "starting", tone: "wait", problem: "waiting for the first frame" };
    case "ended":
      return { text: "ended", tone: "idle", problem: "recording ended" };
    case "elsewhere":
      return { text: "not run here", tone: "idle", problem: stream.reason ?? "this agent does not run the stream" };
    case "unreachable":
      return { text: "not reached", tone: "bad", problem: stream.reason };
    default:
      return { text: "not answering", tone: "bad", problem: "capture process does not answer" };
  }
}

// Return the shapes of a result: [{label, score}].
export function shapes(result) {
  return [...result.boxes, ...result.polygons, ...result.quads];
}

const STATUS = {
  "stream.up": "camera connected",
  "stream.ended": "recording ended",
  "stream.stopped": "agent stopped",
  "stream.moved": "not run here any more",
};

// Return a summary of an event in one line.
export function summary(event) {
  const data = event.data;
  if (event.type !== "streamer.result.v1") {
    if (event.type === "streamer.incident.v1") return [data.state, data.text, data.reason].filter(Boolean).join(" · ");
    const text = [data.worker ?? data.sink ?? data.output, data.reason].filter(Boolean).join(": ");
    return text || STATUS[event.subject] || data.state;
  }
  if (data.outcome === "empty") return "nothing found";
  if (!data.result) return [data.outcome, data.error].filter(Boolean).join(": ");
  const labels = new Map();
  for (const { label } of shapes(data.result)) labels.set(label, (labels.get(label) ?? 0) + 1);
  const things = [...labels].map(([label, times]) => (label || "something") + (times > 1 ? ` × ${times}` : ""));
  return [plainCaption(data.result), things.join(", ")].filter(Boolean).join(" · ");
}

export function isBad(event) {
  if (event.type === "streamer.result.v1") return !["ok", "empty", "unchanged"].includes(event.data.outcome);
  return /\.(down|lost|restarted)$/.test(event.subject);
}
