// Create elements. Text is always set as text, never as HTML: it comes from cameras and models.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Set a text only if it differs, so that a selection on the page survives.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
