// Shows notifications of incidents, and carries out their buttons. Links are relative to the page.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => event.waitUntil(show(event.data)));
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const link = event.notification.data?.[event.action];
  event.waitUntil(link ? act(event.action, link, event.notification.tag) : open());
});

function url(path) {
  return new URL(path, self.registration.scope).href;
}

// A push without a notification would cost the permission, so one is shown in any case.
async function show(data) {
  let message;
  try {
    message = data.json();
  } catch {
    message = { title: "streamer", body: "A message could not be read." };
  }
  const { title, body, tag, silent, severity, picture, snooze, wrong } = message;
  const actions = [snooze && { action: "snooze", title: "Snooze 1 h" }, wrong && { action: "wrong", title: "Wrong" }].filter(Boolean);
  await self.registration.showNotification(title, {
    body,
    tag: tag ?? "",
    renotify: Boolean(tag) && !silent,
    silent: Boolean(silent),
    requireInteraction: severity === "critical",
    icon: url("icon.svg"),
    image: picture ? url(picture) : undefined,
    actions,
    data: { snooze, wrong },
  });
}

async function act(action, link, tag) {
  let text;
  try {
    const response = await fetch(url(link), { method: "POST" });
    const answer = await response.json().catch(() => ({}));
    text = answer.done ?? answer.detail ?? "The agent refused it: use the page.";
  } catch {
    text = "No answer from the agent: use the page.";
  }
  await self.registration.showNotification(action === "snooze" ? "Snooze" : "Wrong", { body: text, tag, silent: true, icon: url("icon.svg") });
}

async function open() {
  const place = url("#/incidents");
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const page = pages.find((one) => one.url.startsWith(self.registration.scope));
  if (!page) return self.clients.openWindow(place);
  await page.focus();
  return page.navigate(place).catch(() => null);
}
