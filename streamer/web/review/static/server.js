// Talk to the server. A failure is an Error with the reason in words.

const TIMEOUT_MS = 20_000;
const LOST = "No answer from the server: is the command still running? Nothing was lost that was stored.";
const LOGGED_OUT = "The command was started again: open the link that it has printed.";

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new Error(LOST);
  }
  if (response.status === 401) throw new Error(LOGGED_OUT);
  if (!response.ok) {
    const text = await response.text().catch(() => "");
    let reason = text;
    try {
      reason = JSON.parse(text).detail;
    } catch {
      // plain text
    }
    throw new Error(reason || response.statusText);
  }
  return response;
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await ask(path, options)).json();
}

const pictures = new Map();

// Return a promise of a loaded image. The next pictures are loaded ahead with it.
export function picture(number) {
  if (!pictures.has(number)) pictures.set(number, load(`api/review/pictures/${number}.jpg`));
  const loading = pictures.get(number);
  loading.catch(() => pictures.delete(number));
  return loading;
}

// Forget all pictures but these.
export function keep(numbers) {
  for (const number of [...pictures.keys()]) if (!numbers.includes(number)) pictures.delete(number);
}

async function load(url) {
  const image = new Image();
  image.alt = "";
  image.src = url;
  try {
    await image.decode();
  } catch {
    await ask(url); // for the reason
    throw new Error("The browser cannot show this picture.");
  }
  return image;
}
