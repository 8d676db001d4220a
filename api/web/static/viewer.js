// The slider from the photo over Grad-CAM to the anomaly map.
"use strict";

function installViewers(root) {
  for (const viewer of root.querySelectorAll("[data-viewer]")) {
    const slider = viewer.querySelector("input[type=range]");
    if (!slider || viewer.dataset.ready) continue;
    viewer.dataset.ready = "yes";
    const layers = [...viewer.querySelectorAll("[data-layer]")];
    const stops = [...viewer.querySelectorAll("[data-stop]")];
    const show = () => {
      const at = Number(slider.value);
      // Each layer fades in over the one below it.
      for (const layer of layers) layer.style.opacity = Math.min(1, Math.max(0, at - layer.dataset.layer + 1));
      for (const stop of stops) stop.setAttribute("aria-pressed", String(Math.abs(at - stop.dataset.stop) < 0.25));
      slider.setAttribute("aria-valuetext", stops.reduce((a, b) => Math.abs(at - a.dataset.stop) <= Math.abs(at - b.dataset.stop) ? a : b).textContent);
    };
    slider.addEventListener("input", show);
    for (const stop of stops) stop.addEventListener("click", () => { slider.value = stop.dataset.stop; show(); });
    show();
  }
}

document.addEventListener("DOMContentLoaded", () => installViewers(document));
