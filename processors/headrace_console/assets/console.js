// The console's only script: signs in by the address, shows local times, keeps a page that is looked at new. Everything that it
// puts on the page was rendered and escaped by the server; it builds no markup from text.
"use strict";

const RETRY = 2000;

function signIn() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!found) return false;
  history.replaceState(null, "", location.pathname + location.search);  // it stays in no history and no copied address
  const body = new URLSearchParams({ token: found });
  fetch("/session", { method: "POST", body, redirect: "manual", credentials: "same-origin" }).then(() => location.reload());
  return true;
}

function localTimes(root) {
  for (const each of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(each.dateTime);
    if (isNaN(moment)) continue;
    const day = moment.toLocaleDateString("sv-SE"), clock = moment.toLocaleTimeString("sv-SE");
    const tenths = `${clock}.${Math.floor(moment.getMilliseconds() / 100)}`;
    each.textContent = { clock, day, tenths }[each.dataset.form] || `${day} ${clock}`;
  }
}

function say(text) {
  const state = document.getElementById("state");
  if (state) state.textContent = text;
}

// What a reader has opened, typed or pointed at is theirs: a page is not shown anew under their hands.
function busy() {
  const active = document.activeElement;
  if (active && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName) && active.closest("main")) return true;
  return !getSelection().isCollapsed;
}

function opened(root) {
  return [...root.querySelectorAll("details")].map((each) => each.open);
}

let refreshing = false, again = false, signedOut = false;

async function refresh() {
  if (refreshing) { again = true; return; }
  if (busy()) { say("newer records are there"); return; }
  refreshing = true;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (answer.status === 401) {
      signedOut = true;
      return say("signed out: load the page again");
    }
    if (!answer.ok) return say(`not shown anew: ${answer.status}`);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = document.querySelector("main"), focus = document.activeElement;
    const path = focus && main.contains(focus) && focus.getAttribute("href");
    const states = opened(main);
    main.replaceChildren(...next.querySelector("main").childNodes);
    main.querySelectorAll("details").forEach((each, at) => { if (at in states) each.open = states[at]; });
    if (path) [...main.querySelectorAll("a")].find((each) => each.getAttribute("href") === path)?.focus({ preventScroll: true });
    const cut = next.getElementById("cut");
    if (cut) document.getElementById("cut")?.replaceWith(cut);
    localTimes(document);
    say("");
  } catch {
    say("the console does not answer; it is tried again");
  } finally {
    refreshing = false;
    if (again) { again = false; setTimeout(refresh, RETRY); }
  }
}

// One connection for a page that is looked at: browsers allow few to one server, and a hidden tab needs none.
let stream = null;

function follow() {
  if (document.hidden) { stream?.close(); stream = null; return; }
  if (stream || signedOut) return;
  stream = new EventSource(`/live?of=${document.body.dataset.live}`);
  stream.addEventListener("news", refresh);
  stream.onerror = () => {
    say("the console does not answer; it is tried again");
    if (stream.readyState !== EventSource.CLOSED) return;
    stream = null;  // refused, and not only broken off: an answer to the page itself says why
    refresh().then(() => setTimeout(follow, RETRY));
  };
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  if (event.key === "/") { event.preventDefault(); document.querySelector(".find input")?.focus(); }
  const meant = document.querySelector(`main [data-key="${CSS.escape(event.key)}"]`);
  if (meant) { event.preventDefault(); meant.tagName === "TEXTAREA" ? meant.focus() : meant.click(); }
}

function once(event) {
  setTimeout(() => { for (const each of event.target.querySelectorAll("button")) each.disabled = true; });
}

if (!signIn()) {
  localTimes(document);
  if (matchMedia("(max-width: 760px)").matches) document.querySelector(".menu")?.removeAttribute("open");
  document.addEventListener("keydown", keys);
  for (const form of document.querySelectorAll("form[method=post]")) form.addEventListener("submit", once);
  if ("live" in document.body.dataset) {
    document.addEventListener("visibilitychange", () => { follow(); if (!document.hidden) refresh(); });
    follow();
  } else if (document.querySelector("[data-retry]")) {
    const retry = () => document.hidden ? document.addEventListener("visibilitychange", retry, { once: true }) : location.reload();
    setTimeout(retry, RETRY);  // a tab that nobody looks at asks for nothing
  }
}
