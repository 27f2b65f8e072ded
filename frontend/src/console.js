// Behaviour of every console page: theme, menus, dialogs, copy buttons, toasts, live polling. Nothing here
// may know a rule of the product; pages work without it except for copying, dialogs and live updates.

import htmx from "htmx.org";

htmx.config.includeIndicatorStyles = false;
htmx.config.allowEval = false;
htmx.config.selfRequestsOnly = true;
htmx.config.historyCacheSize = 0; // pages hold secrets and money: never in sessionStorage
htmx.config.scrollBehavior = "auto";
htmx.config.responseHandling = [
  { code: "204", swap: false },
  { code: "[23]..", swap: true },
  { code: "422", swap: true },
  { code: "[45]..", swap: false, error: true },
];

const TICK_MS = 5000;
const TOAST_MS = 6000;

const sprite = () => document.body.dataset.icons;

// ------------------------------------------------------------------ theme

const THEMES = ["system", "light", "dark"];

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.setAttribute("aria-label", button.dataset[`label${theme[0].toUpperCase()}${theme.slice(1)}`]);
    for (const icon of button.querySelectorAll("[data-when]")) icon.toggleAttribute("hidden", icon.dataset.when !== theme);
  }
  document.dispatchEvent(new CustomEvent("themechange"));
}

function nextTheme(button) {
  const current = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax${secure}`;
  showTheme(next);
  announce(button.getAttribute("aria-label"));
}

// ------------------------------------------------------------------ words to the user

function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${sprite()}#${name}`);
  svg.append(use);
  return svg;
}

function toast(text, level = "info") {
  const card = document.createElement("div");
  card.className = `toast-card ${level}`;
  card.setAttribute("role", level === "error" ? "alert" : "status");
  const words = document.createElement("p");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.dataset.dismiss = "";
  close.setAttribute("aria-label", "Dismiss");
  close.append(icon("x"));
  card.append(level === "error" ? icon("circle-alert") : icon("circle-check"), words, close);
  document.getElementById("toasts").append(card);
  expire(card);
}

function expire(card) {
  // Errors stay until they are dismissed.
  if (card.classList.contains("error")) return;
  let left = setTimeout(() => card.remove(), TOAST_MS);
  const stay = () => clearTimeout(left);
  card.addEventListener("pointerenter", stay);
  card.addEventListener("focusin", stay);
  card.addEventListener("pointerleave", () => (left = setTimeout(() => card.remove(), TOAST_MS)));
}

// ------------------------------------------------------------------ clicks, by what the element says of itself

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = button.dataset.copyText ?? source?.dataset.text ?? source?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text.trim());
  } catch {
    // No clipboard permission (plain http on another host): select the text, so that Ctrl-C takes it.
    if (source) getSelection().selectAllChildren(source);
    toast("Press Ctrl+C to copy the selected text.", "warning");
    return;
  }
  const label = button.querySelector("[data-label]");
  const before = label?.textContent;
  if (label) label.textContent = "Copied";
  announce("Copied");
  setTimeout(() => label && (label.textContent = before), 1600);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest(
    "[data-copy],[data-copy-text],[data-open-dialog],[data-close-dialog],[data-dismiss],[data-theme-toggle],[data-rail-toggle],[data-live-toggle]",
  );
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  if (!target) return;
  const { dataset } = target;
  if ("copy" in dataset || "copyText" in dataset) copy(target);
  else if ("openDialog" in dataset) document.getElementById(dataset.openDialog).showModal();
  else if ("closeDialog" in dataset) target.closest("dialog").close();
  else if ("dismiss" in dataset) target.closest(".toast-card").remove();
  else if ("themeToggle" in dataset) nextTheme(target);
  else if ("railToggle" in dataset) {
    const open = target.closest(".rail").toggleAttribute("data-open");
    target.setAttribute("aria-expanded", String(open));
  } else if ("liveToggle" in dataset) toggleLive(target);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details[data-menu][open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// A field that must repeat a word unlocks the button that cannot be undone.
document.addEventListener("input", (event) => {
  const { confirmWord } = event.target.dataset;
  if (confirmWord === undefined) return;
  // `elements` knows a button outside the form that belongs to it by its form attribute.
  const button = [...event.target.form.elements].find((each) => "confirmButton" in each.dataset);
  button.disabled = event.target.value.trim() !== confirmWord;
});

// Filters apply as they change; the address bar keeps them.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-auto-submit]");
  if (form && event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
});

// An empty filter has no place in the address.
document.addEventListener("formdata", (event) => {
  if (!event.target.matches("form[data-auto-submit]")) return;
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});

// ------------------------------------------------------------------ live pages

function toggleLive(button) {
  const frame = button.closest("[data-live]");
  const on = frame.dataset.live !== "on";
  frame.dataset.live = on ? "on" : "off";
  button.setAttribute("aria-pressed", String(on));
  announce(on ? "Live updates on" : "Live updates paused");
}

setInterval(() => {
  if (document.hidden) return;
  for (const frame of document.querySelectorAll("[data-live=on]")) {
    for (const part of frame.querySelectorAll("[data-poll]")) htmx.trigger(part, "tick");
  }
}, TICK_MS);

let offline = false;

function connection(lost) {
  if (lost === offline) return;
  offline = lost;
  if (lost) toast("The console cannot reach the server. Numbers on this page are old.", "error");
  else toast("Connected again.", "success");
}

document.addEventListener("htmx:sendError", () => connection(true));
document.addEventListener("htmx:timeout", () => connection(true));
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.xhr.status >= 200) connection(false);
});
document.addEventListener("htmx:responseError", (event) => {
  const { xhr } = event.detail;
  if (xhr.status === 401) location.reload();
  else toast(xhr.getResponseHeader("X-Console-Error") ?? `The server answered ${xhr.status}.`, "error");
});
document.addEventListener("toast", (event) => toast(event.detail.text, event.detail.level));

// ------------------------------------------------------------------ first paint

document.addEventListener("DOMContentLoaded", () => {
  showTheme(document.documentElement.dataset.theme ?? "system");
  for (const card of document.querySelectorAll(".toast-card")) expire(card);
  document.querySelector("dialog[data-open-now]")?.showModal();
  document.querySelector("[aria-invalid=true]")?.focus();
});
