// The page works without this script: it only keeps open pages up to date and saves some clicks.
"use strict";

(() => {
  let stale = false;
  let loading = false;

  // Replaces the parts of the page that are marked with data-live, but none that somebody is working in.
  async function refresh() {
    if (document.hidden || loading) { stale = true; return; }
    loading = true;
    stale = false;
    try {
      const response = await fetch(location.href, { headers: { "x-live": "1" }, redirect: "error" });
      if (response.status === 401) { location.reload(); return; }
      const next = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of next.querySelectorAll("[data-live][id]")) {
        const old = document.getElementById(part.id);
        if (!old || old.outerHTML === part.outerHTML || isBusy(old)) continue;
        const ticked = [...old.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value);
        const open = [...old.querySelectorAll("details[open][id]")].map((one) => one.id);
        old.replaceWith(part);
        for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = ticked.includes(box.value);
        for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      }
      mark(true);
    } catch {
      mark(false);
    } finally {
      loading = false;
      count();
    }
  }

  function isBusy(part) {
    return part.querySelector(".ask[open]") !== null
      || (part.contains(document.activeElement) && document.activeElement.matches("input:not([type=checkbox]), textarea, select"));
  }

  // Says when the page itself cannot be reached any more.
  function mark(reached) {
    const place = document.getElementById("connection");
    if (!place || reached) return;
    const state = document.createElement("span");
    state.className = "state bad";
    state.textContent = "page offline";
    place.replaceChildren(state);
  }

  if (document.body.hasAttribute("data-follow") && window.EventSource) {
    const events = new EventSource("/live");
    events.addEventListener("update", refresh);
    events.onerror = () => { if (events.readyState === EventSource.CLOSED) refresh(); else mark(false); };
    events.onopen = refresh;
    document.addEventListener("visibilitychange", () => { if (!document.hidden && stale) refresh(); });
  }

  // Only one question is open at a time; Escape and a click elsewhere close it.
  document.addEventListener("toggle", (event) => {
    const ask = event.target;
    if (!(ask instanceof HTMLDetailsElement) || !ask.matches(".ask") || !ask.open) return;
    for (const other of document.querySelectorAll(".ask[open]")) if (other !== ask) other.open = false;
    ask.querySelector("form input:not([type=hidden]), form button")?.focus();
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const ask of document.querySelectorAll(".ask[open]")) { ask.open = false; ask.querySelector("summary")?.focus(); }
  });
  document.addEventListener("click", (event) => {
    for (const ask of document.querySelectorAll(".ask[open]")) if (!ask.contains(event.target)) ask.open = false;
  });

  // Ticking all boxes of a table, and how many are ticked.
  function count() {
    const boxes = [...document.querySelectorAll("input[name=ids]")];
    const ticked = boxes.filter((box) => box.checked).length;
    for (const place of document.querySelectorAll("[data-ticked]")) place.textContent = ticked ? `${ticked} selected` : "";
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) {
      for (const box of document.querySelectorAll("input[name=ids]")) box.checked = event.target.checked;
    }
    count();
  });

  // `/` goes to the search field.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
    const search = document.querySelector("[data-search]");
    if (search) { event.preventDefault(); search.focus(); }
  });
})();
