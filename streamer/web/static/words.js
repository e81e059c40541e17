// Numbers and events in words.

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

export function dropped(frames) {
  return Object.values(frames.dropped).reduce((sum, number) => sum + number, 0);
}

// What a camera's state means: a word for the badge, and a sentence where something is wrong.
export function state(stream) {
  switch (stream.state) {
    case "live":
      return stream.stalled
        ? { word: "stalled", tone: "bad", why: `no picture for ${age(stream.frame_age_s)}` }
        : { word: "live", tone: "good", why: null };
    case "down":
      return { word: `lost ${age(stream.state_age_s)} ago`, tone: "bad", why: stream.reason ?? "the camera is away" };
    case "starting":
      return { word: "starting", tone: "wait", why: "waiting for the first picture" };
    case "ended":
      return { word: "ended", tone: "idle", why: "this video is over" };
    default:
      return { word: "not answering", tone: "bad", why: "the process of this camera does not answer" };
  }
}

// The shapes of a result: [{label, score}]
export function shapes(result) {
  return [...result.boxes, ...result.polygons, ...result.quads];
}

const STATUS = {
  "stream.up": "pictures are coming",
  "stream.ended": "this video is over",
  "stream.stopped": "the program stopped",
};

// One line that says what an event says.
export function summary(event) {
  const data = event.data;
  if (event.type !== "streamer.result.v1") {
    const what = [data.worker ?? data.sink ?? data.output, data.reason].filter(Boolean).join(": ");
    return what || STATUS[event.subject] || data.state;
  }
  if (data.outcome === "empty") return "nothing there";
  if (!data.result) return [data.outcome, data.error].filter(Boolean).join(": ");
  const labels = new Map();
  for (const { label } of shapes(data.result)) labels.set(label, (labels.get(label) ?? 0) + 1);
  const things = [...labels].map(([label, times]) => (label || "something") + (times > 1 ? ` × ${times}` : ""));
  return [data.result.text, things.join(", ")].filter(Boolean).join(" · ");
}

export function isBad(event) {
  if (event.type === "streamer.result.v1") return !["ok", "empty", "unchanged"].includes(event.data.outcome);
  return /\.(down|lost|restarted)$/.test(event.subject);
}
