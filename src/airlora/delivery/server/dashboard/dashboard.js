"use strict";
// The page is whole without this: it only keeps it fresh.
const live = document.getElementById("live");
const state = document.getElementById("state");

async function refresh() {
  const answer = await fetch("fragment");
  if (!answer.ok) throw new Error(String(answer.status));
  live.innerHTML = await answer.text();
}

const events = new EventSource("events");
events.addEventListener("change", () => {
  refresh()
    .then(() => { state.textContent = "live"; })
    .catch(() => { state.textContent = "cannot be refreshed"; });
});
events.addEventListener("error", () => { state.textContent = "connection lost, trying again"; });
