"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const text = dark ? "#e6e6ea" : "#1c1c1e", grid = dark ? "#3a3a42" : "#d9d9de", page = dark ? "#17171a" : "#ffffff";
  const themed = (layout) => {
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid };
    for (const holder of [layout, layout.scene || {}]) {
      for (const key of ["xaxis", "yaxis", "zaxis"]) if (holder[key]) Object.assign(holder[key], axis);
    }
    for (const menu of layout.updatemenus || []) Object.assign(menu, { bgcolor: page, bordercolor: grid, font: { color: text } });
    const font = { color: text, family: getComputedStyle(document.body).fontFamily };
    const modebar = { bgcolor: "rgba(0,0,0,0)", color: grid, activecolor: text };
    return Object.assign(layout, { font, modebar, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
  };
  const draw = (element) => {
    const figure = figures[element.id];
    // plotly's bar has a button that uploads the chart: a report of unpublished results has none.
    const settings = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };
    settings.modeBarButtonsToRemove = ["select2d", "lasso2d", "autoScale2d"];
    Plotly.newPlot(element, figure.data, themed(figure.layout), settings);
  };
  // Browsers keep some 16 WebGL contexts alive: a page of many scenes draws what is looked at.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "400px" });
  for (const element of document.querySelectorAll(".figure")) {
    element.style.minHeight = figures[element.id].layout.height + "px";
    watcher.observe(element);
  }
  addEventListener("beforeprint", () => {
    for (const element of document.querySelectorAll(".figure:empty")) { watcher.unobserve(element); draw(element); }
  });
})();
