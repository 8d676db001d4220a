// What every page needs: the token that proves that a change comes from our page, and times in the
// reader's own time zone.
"use strict";

const CSRF = document.querySelector("meta[name=csrf]").content;

/** Ask our API; answers its JSON, or throws an Error with the problem's words, code and status. */
async function api(method, path, body, headers = {}) {
  const isJson = body !== undefined && !(body instanceof FormData);
  const answer = await fetch(path, {
    method,
    headers: { "X-CSRF-Token": CSRF, ...(isJson && { "Content-Type": "application/json" }), ...headers },
    body: isJson ? JSON.stringify(body) : body,
    credentials: "same-origin",
  });
  if (answer.status === 401) location.assign("/login?next=" + encodeURIComponent(location.pathname));
  if (answer.status === 204) return null;
  const text = await answer.text();
  let document_;
  try { document_ = JSON.parse(text); } catch { document_ = { detail: "The service gave no answer that can be read.", code: "no_answer" }; }
  if (!answer.ok) throw Object.assign(new Error(document_.detail), { code: document_.code, status: answer.status });
  return document_;
}

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (isNaN(moment)) continue;
    const isToday = moment.toDateString() === new Date().toDateString();
    time.textContent = moment.toLocaleString([], isToday ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
    time.title = time.dateTime;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  showTimes(document);
  // On a telephone not all pages fit beside one another; this one's name should be seen.
  const here = document.querySelector(".top [aria-current]");
  if (here) here.parentElement.scrollLeft = here.offsetLeft - here.parentElement.offsetLeft - 40;
});
document.addEventListener("htmx:afterSwap", (event) => showTimes(event.target.parentElement || document));
