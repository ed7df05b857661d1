// Keeps a screen up to date and draws its charts. Everything is rendered by the server; without this
// script a screen is as it was when it was loaded.
"use strict";

(() => {
  const live = document.getElementById("live");
  const connection = document.getElementById("connection");

  const say = (text) => {
    if (connection) connection.textContent = text;
  };

  // What is open, what has the focus and how far a table is scrolled stays as it is.
  const replace = (html) => {
    const selection = document.getSelection();
    if (selection && !selection.isCollapsed && live.contains(selection.anchorNode)) return;
    const active = document.activeElement;
    if (active && live.contains(active) && /^(INPUT|SELECT|TEXTAREA)$/.test(active.tagName)) return;
    const open = [...live.querySelectorAll("details[open]")].map((one) => one.id);
    const focused = active && live.contains(active) ? place(active) : null;
    const scrolled = [...live.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    live.innerHTML = html;
    for (const id of open) {
      const one = id && document.getElementById(id);
      if (one) one.open = true;
    }
    [...live.querySelectorAll(".scroll")].forEach((one, index) => (one.scrollLeft = scrolled[index] || 0));
    if (focused) {
      const found = [...live.querySelectorAll(focused.kind)].find((one) => name(one) === focused.name);
      if (found) found.focus({ preventScroll: true });
    }
  };

  const name = (one) => one.getAttribute("href") || one.id || one.parentElement.id || one.getAttribute("aria-label") || one.textContent;
  const place = (one) => ({ kind: one.tagName.toLowerCase(), name: name(one) });

  if (live && live.dataset.live && window.EventSource) {
    const source = new EventSource(live.dataset.live);
    source.addEventListener("open", () => say("up to date"));
    source.addEventListener("live", (event) => {
      replace(event.data);
      say("up to date");
    });
    source.addEventListener("error", () => say("the server does not answer; what is shown is as it was"));
    window.addEventListener("pagehide", () => source.close());
  }

  // After an action that has the server begin anew: back to where it was asked for, once it answers.
  const anew = document.querySelector("a[data-anew]");
  const goBack = async () => {
    say("This page does so by itself as soon as the server answers.");
    try {
      const answer = await fetch(anew.href);
      if (answer.ok) location.replace(anew.href);
      else setTimeout(goBack, 1000);
    } catch {
      setTimeout(goBack, 1000);
    }
  };
  if (anew) setTimeout(goBack, 2000);

  const charts = document.querySelector(".charts");
  if (!charts || !window.uPlot) return;

  const drawn = new Map();
  const color = (variable) => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
  const shown = (value) => (value === null || value === undefined ? "–" : value >= 100 ? Math.round(value).toLocaleString() : value.toFixed(1));
  const tick = (value) =>
    Math.abs(value) >= 1e6 ? `${+(value / 1e6).toFixed(1)}M` : Math.abs(value) >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : `${+value.toFixed(2)}`;

  // As long as it has been watched, ten minutes at least.
  const span = (first) => {
    const now = Date.now() / 1000;
    return [Math.max(now - 3600 * charts.dataset.hours, Math.min(first || now, now - 600)), now];
  };

  const draw = (place, points) => {
    const names = place.dataset.series.split(",");
    const data = [points.at, ...names.map((each) => points[each])];
    if (drawn.has(place)) {
      drawn.get(place).setData(data);
      return;
    }
    const colors = [color("--running"), color("--retrying")];
    const clock = (at) => {
      const date = new Date(1000 * at);
      const time = date.toTimeString().slice(0, 5);
      return charts.dataset.hours > 24 && time === "00:00" ? date.toISOString().slice(5, 10) : time;
    };
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
    const chart = new uPlot(
      {
        width: place.clientWidth,
        height: 160,
        cursor: { y: false },
        legend: { live: true },
        scales: { x: { range: (_, first) => span(first) }, y: { range: (_, low, high) => [0, Math.max(1, high || 0) * 1.1] } },
        axes: [{ ...axis, values: (_, values) => values.map(clock) }, { ...axis, size: 52, values: (_, values) => values.map(tick) }],
        series: [{ label: "at", value: (_, at) => (at === null ? "–" : clock(at)) }, ...names.map((each, index) => ({ label: each, stroke: colors[index], width: 1.6, value: (_, value) => shown(value) }))],
      },
      data,
      place,
    );
    drawn.set(place, chart);
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: 160 })).observe(place);
  };

  const look = async () => {
    try {
      const answer = await fetch(`/page/points?hours=${charts.dataset.hours}`);
      if (!answer.ok) return;
      const points = await answer.json();
      for (const place of charts.querySelectorAll(".chart")) draw(place, points);
    } catch {
      // the server has gone: the live part says so
    }
  };
  look();
  setInterval(look, 10000);
})();
