// What is shown, and what happens when it is changed.

function start() {
  for (const element of document.querySelectorAll(".static")) element.hidden = true;
  for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;
  let shown = {show() {}}, rows = new Map();

  function pick(point, scroll = true) {
    for (const row of rows.values()) row.removeAttribute("aria-selected");
    const row = rows.get(point);
    if (!row) return;
    row.setAttribute("aria-selected", "true");
    if (scroll) row.scrollIntoView({block: "nearest", behavior: "auto"});
    shown.show(point);
  }

  function refresh() {
    const groups = chosen();
    byId("fronts").classList.toggle("nothing", !groups.length);
    shown = drawFronts(groups, pick);
    rows = drawTable(groups, point => shown.show(point), point => pick(point, false), kept => { rows = kept; });
    drawNetworks();
    if (groups.length) drawBreakdown(groups);
    for (const section of [drawAttainment, drawLoad, drawSegments]) section(groups);
  }

  drawFilters(refresh);
  startWhatIf();
  refresh();
  drawWhatIf();
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    requestAnimationFrame(() => { refresh(); drawWhatIf(); });
  });
}

start();
