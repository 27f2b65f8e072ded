// Draws each figure[data-chart] from the table inside it: the table is the truth and the text alternative.
// Redraws when htmx has swapped the table.

import uPlot from "uplot";

const drawn = new WeakMap();
const compact = new Intl.NumberFormat(document.documentElement.lang || "en", { notation: "compact", maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat(document.documentElement.lang || "en", { maximumFractionDigits: 6 });

function read(figure) {
  const table = figure.querySelector("table");
  const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
  const columns = [[], ...names.map(() => [])];
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, index) => {
      const { value } = cell.dataset;
      columns[index].push(value === "" ? null : Number(value));
    });
  }
  return { names, columns };
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { quiet: of("--quiet"), line: of("--color-base-300"), series: [1, 2, 3].map((n) => of(`--series-${n}`)) };
}

function readout(figure, plot, index) {
  const target = figure.querySelector(".chart-readout");
  if (index == null) {
    target.textContent = "";
    return;
  }
  const at = new Date(plot.data[0][index] * 1000);
  const zone = figure.dataset.timezone;
  const time = at.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  const parts = plot.series.slice(1).flatMap((series, n) => {
    const value = plot.data[n + 1][index];
    return series.show ? [`${series.label} ${value == null ? "–" : plain.format(value)}`] : [];
  });
  target.textContent = `${time} · ${parts.join(" · ")}`;
}

function draw(figure) {
  const { names, columns } = read(figure);
  const canvas = figure.querySelector(".chart-canvas");
  const { quiet, line, series } = colours();
  const zone = figure.dataset.timezone;
  const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: '11px "Plex Sans", sans-serif' };
  const bars = uPlot.paths.bars({ size: [0.72, 14], radius: 0.15 });
  const plot = new uPlot(
    {
      width: canvas.clientWidth,
      height: canvas.clientHeight,
      tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), zone),
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { x: { time: true, range: (_, min, max) => [min - 30, max + 30] }, y: { range: (_, __, max) => [0, max ? max * 1.08 : 1] }, y2: { range: (_, __, max) => [0, max ? max * 1.08 : 1] } },
      axes: [
        { ...axis, size: 24, grid: { show: false }, values: (_, stamps) => stamps.map((s) => new Date(s * 1000).toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone })) },
        { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => compact.format(tick)) },
        { ...axis, scale: "y2", side: 1, size: 46, grid: { show: false }, values: (_, ticks) => ticks.map((tick) => compact.format(tick)) },
      ],
      series: [
        {},
        ...names.map((label, n) => ({
          label,
          scale: n === 1 ? "y2" : "y",
          stroke: series[n],
          fill: n === 0 ? series[0] : undefined,
          width: n === 0 ? 0 : 1.75,
          paths: n === 0 ? bars : undefined,
          points: { show: false },
        })),
      ],
      hooks: { setCursor: [(u) => readout(figure, u, u.cursor.idx)] },
    },
    columns,
    canvas,
  );
  drawn.set(figure, plot);
}

function refresh(figure) {
  const plot = drawn.get(figure);
  if (plot) plot.setData(read(figure).columns);
  else draw(figure);
}

function redraw(figure) {
  const plot = drawn.get(figure);
  const shown = plot?.series.map((series) => series.show);
  plot?.destroy();
  drawn.delete(figure);
  draw(figure);
  shown?.forEach((show, n) => n && drawn.get(figure).setSeries(n, { show }));
}

const all = () => document.querySelectorAll("figure[data-chart]");

document.addEventListener("DOMContentLoaded", () => {
  const watcher = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target.closest("figure"));
      if (plot && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  });
  for (const figure of all()) {
    draw(figure);
    watcher.observe(figure.querySelector(".chart-canvas"));
  }
});
document.addEventListener("htmx:afterSettle", () => all().forEach(refresh));
document.addEventListener("themechange", () => [...all()].filter((figure) => drawn.has(figure)).forEach(redraw));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all().forEach(redraw));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-series]");
  if (!button) return;
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  drawn.get(button.closest("figure")).setSeries(Number(button.dataset.series), { show: on });
});
