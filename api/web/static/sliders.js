// A slider and the number beside it are one value; the number is what is sent.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("sliders");
  if (!form) return;
  const ranges = [...form.querySelectorAll("[data-slides]")];
  for (const range of ranges) {
    const number = form.elements[range.dataset.slides];
    range.addEventListener("input", () => { number.value = Number(range.value).toFixed(range.dataset.digits); });
    number.addEventListener("input", () => { range.value = number.value; });
  }
  form.addEventListener("reset", () => {
    // The fields have their first values again only after this event.
    setTimeout(() => htmx.trigger(form, "moved"));
  });
});
