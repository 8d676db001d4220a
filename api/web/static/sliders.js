// A slider and the number beside it are one value; the number is what is sent.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("sliders");
  if (!form) return;
  for (const range of form.querySelectorAll("[data-slides]")) {
    const number = form.elements[range.dataset.slides];
    range.addEventListener("input", () => { number.value = Number(range.value).toFixed(range.dataset.digits); });
    number.addEventListener("input", () => { range.value = number.value; });
  }
});
