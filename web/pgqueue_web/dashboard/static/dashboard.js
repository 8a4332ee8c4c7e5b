// What pages do beyond links and forms. Everything is found by attributes; nothing is kept in the page's text.
"use strict";

const html = document.documentElement;
const one = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const on = (name, act, options) => document.addEventListener(name, act, options);
const onClick = (selector, act) => on("click", (event) => {
    const found = event.target.closest?.(selector);
    if (found) act(found, event);
});
const keep = (name, value) => { try { localStorage.setItem("pgqueue." + name, value); } catch { /* not allowed: forget it */ } };

// Notices

function notify(text, kind) {
    const line = document.createElement("p");
    line.textContent = text;
    if (kind === "error") line.className = "error";
    one("#notices").append(line);
    setTimeout(() => line.remove(), kind === "error" ? 12000 : 5000);
}

on("notice", (event) => {
    notify(event.detail.text, event.detail.kind);
    refresh(true);
});
on("htmx:error", (event) => {
    if (event.target.id !== "main" && event.target.id !== "stream") notify("The server cannot be reached; nothing was done.", "error");
});

// Times: the same words as the server's

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function relative(stamp) {
    const seconds = Math.round((Date.now() - Date.parse(stamp)) / 1000);
    const size = Math.abs(seconds);
    if (size < 5) return seconds >= 0 ? "just now" : "now";
    const [unit, name] = UNITS.find(([least]) => size >= least);
    const words = Math.floor(size / unit) + " " + name;
    return seconds > 0 ? words + " ago" : "in " + words;
}

function tellTimes() {
    for (const time of all("time[data-relative]")) {
        const words = relative(time.dateTime);
        if (time.textContent !== words) time.textContent = words;
    }
}
setInterval(tellTimes, 5000);

// Theme

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

function showTheme() {
    const name = "Colours: " + THEMES[html.dataset.theme ?? "auto"];
    for (const button of all("[data-theme-switch]")) { button.title = name; button.ariaLabel = name; }
    drawCharts(true);
}
onClick("[data-theme-switch]", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(html.dataset.theme ?? "auto") + 1) % names.length];
    if (next === "auto") delete html.dataset.theme; else html.dataset.theme = next;
    keep("theme", next);
    showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(true));

// Live: hints come as events; the page asks for itself anew, at most once a second, and is morphed

const LEAST_PAUSE = 1000;
const POLL = 5000;
let lastRefresh = 0;
let waiting = null;
let connected = null; // not known yet
const isPaused = () => html.dataset.live === "paused";

let isForced = false;

function refresh(force) {
    isForced ||= force === true;
    if (waiting) return;
    waiting = setTimeout(() => {
        waiting = null;
        const main = one("#main[hx-get]");
        if (!main || (isPaused() && !isForced)) return;
        lastRefresh = Date.now();
        htmx.trigger(main, "refresh");
    }, Math.max(0, lastRefresh + LEAST_PAUSE - Date.now()));
}
on("htmx:before:swap", (event) => {
    if (event.target.id !== "main") return;
    if (isPaused() && !isForced) event.preventDefault();
    isForced = false;
});

function showLive() {
    html.dataset.stream = connected === null ? "connecting" : connected ? "stream" : "polling";
    for (const button of all("[data-live-switch]")) {
        button.ariaPressed = String(!isPaused());
        button.title = isPaused() ? "Go on with live updates (p)" : connected !== false ? "Live: pause (p)" : "No stream: the page asks every 5 seconds (p to pause)";
    }
}

function switchLive() {
    if (isPaused()) delete html.dataset.live; else html.dataset.live = "paused";
    keep("live", isPaused() ? "paused" : "on");
    showLive();
    refresh();
}
onClick("[data-live-switch]", switchLive);

on("change", (event) => { if (event.target.id === "stream") return hear(JSON.parse(event.detail.data)); });
on("tick", () => { refresh(); });
on("htmx:sse:after:connection", () => { connected = true; showLive(); refresh(); });
for (const name of ["htmx:sse:error", "htmx:sse:close"]) on(name, () => { connected = false; showLive(); });
setInterval(() => {
    const stream = one("#stream");
    if (connected || !stream || document.hidden) return;
    connected = false;
    showLive();
    const anew = stream.cloneNode(); // whatever became of the attempts of the old one
    stream.replaceWith(anew);
    htmx.process(anew);
    refresh();
}, POLL);

function hear(told) {
    if (isPaused()) return;
    for (const [id, [percent, message]] of Object.entries(told.progress)) showProgress(id, percent, message);
    const only = one("#main")?.dataset.liveTask;
    const moved = told.all || (only ? told.moved.includes(only) || only in told.progress : told.moved.length > 0);
    if (moved) refresh();
}

function showProgress(id, percent, message) {
    for (const bar of all(`[data-progress="${CSS.escape(id)}"]`)) {
        one("progress", bar).value = percent;
        one(".percent", bar).textContent = percent + "%";
    }
    for (const line of all(`[data-message="${CSS.escape(id)}"]`)) line.textContent = message;
}

on("htmx:after:swap", () => { tellTimes(); drawCharts(false); countTicks(); showLive(); });

// Forms that ask first

let agreed = null;
on("submit", (event) => {
    const form = event.target;
    if (!form.dataset.ask || agreed === form) { agreed = null; return; }
    event.preventDefault();
    event.stopPropagation();
    const dialog = one("#confirm");
    one("#confirm-title").textContent = form.dataset.ask;
    one("#confirm-text").textContent = form.dataset.askText;
    one("#confirm-yes").textContent = form.dataset.askYes;
    dialog.returnValue = "no";
    dialog.onclose = () => {
        if (dialog.returnValue !== "yes") return;
        agreed = form;
        form.requestSubmit();
    };
    dialog.showModal();
}, true);

onClick("[data-opens]", (button) => one("#" + button.dataset.opens).showModal());
onClick("[data-closes]", (button) => button.closest("dialog").close());
on("htmx:after:request", (event) => {
    const form = event.target;
    if (form.matches?.("dialog[data-once] form, form[data-closes-sheet]") && event.detail.ctx.response.status < 400) form.closest("dialog").close();
});

// The sheet: a dialog whose content the server sends

const sheet = one("#sheet");
on("htmx:after:swap", () => { if (sheet.childElementCount && !sheet.open && sheet.dataset.wanted) sheet.showModal(); });
onClick("[data-sheet]", () => { sheet.dataset.wanted = "yes"; });
sheet.addEventListener("close", () => { sheet.replaceChildren(); delete sheet.dataset.wanted; refresh(true); });

on("change", (event) => { if (event.target.closest?.("[data-at-once]") && event.target.matches("select")) event.target.form.requestSubmit(); });
on("submit", (event) => {
    // Empty filters stay out of the address.
    if (event.target.matches("form[method=get]")) for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
});
addEventListener("pageshow", () => { for (const field of all("form[method=get] :disabled")) field.disabled = false; });

// Ticked rows

const ticked = () => all("[data-tick]:checked");

function countTicks() {
    const bar = one("[data-bulk]");
    if (!bar) return;
    const boxes = all("[data-tick]");
    const count = ticked().length;
    one("[data-bulk-count]").textContent = count ? `${count} selected` : bar.dataset.all;
    bar.toggleAttribute("data-keep-some", count > 0);
    for (const button of all("[data-only-some]", bar)) button.hidden = count === 0;
    const whole = one("[data-tick-all]");
    if (whole) { whole.checked = count > 0 && count === boxes.length; whole.indeterminate = count > 0 && count < boxes.length; }
}
on("htmx:config:request", (event) => {
    if (!event.target.matches?.("[data-bulk-button]")) return;
    const { request } = event.detail.ctx;
    for (const box of ticked()) request.body.append("id", box.value);
});
on("change", (event) => {
    if (event.target.matches?.("[data-tick-all]")) for (const box of all("[data-tick]")) box.checked = event.target.checked;
    if (event.target.matches?.("[data-tick], [data-tick-all]")) countTicks();
});

// Copy

onClick("[data-copy]", async (button) => {
    try {
        const answer = await fetch(button.dataset.copy, { headers: { Accept: "text/plain" } });
        if (!answer.ok) throw new Error(answer.status);
        await navigator.clipboard.writeText(await answer.text());
        notify("Copied.");
    } catch {
        notify("It could not be copied: the browser or the server refused.", "error");
    }
});

// Keys

let went = -Infinity;
on("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea, [contenteditable]")) {
        if (event.key === "Escape") event.target.blur();
        return;
    }
    const act = event.timeStamp - went < 1500 ? GO[event.key] ?? null : KEYS[event.key];
    went = event.key === "g" ? event.timeStamp : -Infinity;
    if (act && act(event) !== false) event.preventDefault();
});

const GO = Object.fromEntries([..."otqswy"].map((key) => [key, () => one(`[data-go=${key}]`).click()]));
const KEYS = {
    "/": () => { const box = one("[data-search]"); if (box) box.focus(); else location.href = one("[data-go=t]").href + "#search"; },
    "?": () => one("#keys").showModal(),
    j: () => step(1),
    k: () => step(-1),
    x: () => { one("[data-keep-current] [data-tick]")?.click(); },
    p: switchLive,
    Enter: (event) => { const link = event.target.matches("a, button, summary, input") ? null : one("[data-keep-current] a[data-open]"); if (!link) return false; link.click(); },
};

function step(by) {
    const rows = all("tr[data-row]");
    const at = rows.findIndex((row) => "keepCurrent" in row.dataset);
    const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)];
    if (!next) return;
    if (at >= 0) delete rows[at].dataset.keepCurrent;
    next.dataset.keepCurrent = "";
    next.scrollIntoView({ block: "nearest" });
    if (next.contains(document.activeElement) === false) document.activeElement?.blur?.();
}
onClick("[data-keys-help]", () => one("#keys").showModal());

// Charts

const charts = new Map();
const DASHES = [[], [6, 4], [2, 3]];
const KINDS = {
    throughput: { columns: ["completed", "failed", "cancelled"], colours: ["--completed", "--failed", "--cancelled"], write: (value) => value.toLocaleString("en") },
    latency: { columns: ["p50_duration_ms", "p95_duration_ms", "p95_wait_ms"], colours: ["--running", "--scheduled", "--pending"], write: writeMs },
};

function writeMs(value) {
    if (value < 1) return value ? value.toFixed(1) + " ms" : "0";
    if (value < 1000) return Math.round(value) + " ms";
    return value < 60000 ? +(value / 1000).toFixed(1) + " s" : +(value / 60000).toFixed(1) + " min";
}

function drawCharts(anew) {
    const figure = one("[data-series]");
    for (const [box, chart] of charts) if (anew || !box.isConnected) { chart.destroy(); charts.delete(box); }
    if (!figure || !window.uPlot) return;
    const told = JSON.parse(figure.dataset.series);
    for (const box of all("[data-chart]", figure)) {
        const kind = KINDS[box.dataset.chart];
        const data = [told.time, ...kind.columns.map((name) => told[name])];
        const known = charts.get(box);
        if (known) known.setData(data); else charts.set(box, new uPlot(optionsOf(box, kind), data, box));
    }
}

function optionsOf(box, kind) {
    const style = getComputedStyle(html);
    const colour = (name) => style.getPropertyValue(name).trim();
    const clock = { hour: "2-digit", minute: "2-digit", hour12: false };
    const day = { month: "short", day: "numeric" };
    const axis = { stroke: colour("--ink-2"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const series = kind.columns.map((name, at) => ({
        label: name, stroke: colour(kind.colours[at]), width: 2, dash: DASHES[at], points: { size: 5 }, spanGaps: true,
        fill: at === 0 ? `color-mix(in srgb, ${colour(kind.colours[0])} 12%, transparent)` : undefined,
    }));
    return {
        width: box.clientWidth, height: box.clientHeight, series: [{}, ...series], legend: { show: false },
        cursor: { y: false, points: { size: 7 } }, plugins: [readout(box, kind)],
        scales: { x: { time: true }, y: { range: (_chart, _least, most) => [0, Math.max(most * 1.1, 1)] } },
        axes: [{ ...axis, space: 80, size: 30, values: (chart, values) => values.map((value) => new Date(value * 1000).toLocaleString("en", chart.scales.x.max - chart.scales.x.min > 2 * 86400 ? day : clock)) }, { ...axis, size: 56, values: (_chart, values) => values.map(kind.write) }],
    };
}

function readout(box, kind) {
    const line = box.parentElement.querySelector("[data-readout]");
    const still = line?.textContent ?? "";
    return { hooks: { setCursor: (chart) => {
        if (!line) return;
        const at = chart.cursor.idx;
        if (at == null || chart.cursor.left < 0) { line.textContent = still; return; }
        const values = kind.columns.map((_name, place) => chart.data[place + 1][at]).map((value) => value == null ? "–" : kind.write(value));
        line.textContent = new Date(chart.data[0][at] * 1000).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" }) + " · " + values.join(" · ");
    } } };
}

new ResizeObserver(() => {
    for (const [box, chart] of charts) chart.setSize({ width: box.clientWidth, height: box.clientHeight });
}).observe(document.body);

tellTimes();
showTheme();
showLive();
countTicks();
if (location.hash === "#search") one("[data-search]")?.focus();
