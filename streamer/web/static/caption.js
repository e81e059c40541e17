// Show the text of an answer, with its phrases that the picture does not support marked by a sign, not by colour only.

import { h } from "./dom.js";

const SIGN = " (?)";

// Return the text in parts: [{text, supported}].
function parts(result) {
  const letters = Array.from(result.text ?? ""); // spans count code points
  const found = [];
  let end = 0;
  for (const span of (result.spans ?? []).filter((span) => !span.supported)) {
    found.push({ text: letters.slice(end, span.start).join(""), supported: true });
    found.push({ text: letters.slice(span.start, span.end).join(""), supported: false });
    end = span.end;
  }
  return [...found, { text: letters.slice(end).join(""), supported: true }];
}

// Return the text as plain text.
export function plainCaption(result) {
  return parts(result).map(({ text, supported }) => text + (supported ? "" : SIGN)).join("");
}

// Return the paragraph of the text.
export function caption(result) {
  return h("p", { className: "text" }, ...parts(result).map(({ text, supported }) => (supported ? text
    : h("mark", { className: "unsupported", title: "The picture does not show this." }, text,
      h("span", { role: "img", ariaLabel: " (not supported)", textContent: SIGN })))));
}
