// Runs before anything is painted: the theme and the pause switch as this browser last chose them.
const root = document.documentElement;
const remembered = (name) => { try { return localStorage.getItem("pgqueue." + name); } catch { return null; } };
const theme = remembered("theme");
if (theme === "light" || theme === "dark") root.dataset.theme = theme;
if (remembered("live") === "paused") root.dataset.live = "paused";
root.classList.add("has-script");
