// Moments are typed in the reader's own time and sent in UTC, in the hidden field of that name.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  for (const field of document.querySelectorAll("[data-utc]")) {
    const hidden = field.form.elements[field.dataset.utc];
    field.addEventListener("change", () => { hidden.value = field.value ? new Date(field.value).toISOString() : ""; });
  }
});
