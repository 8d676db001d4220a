// The live list: what finishes appears by itself, and filters take effect as they are typed.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live");
  const filters = document.getElementById("filters");
  let pending = null;

  // On a telephone the list comes first, unless somebody has filtered it.
  if (innerWidth < 600 && !location.search) document.getElementById("choosing").open = false;

  // Many photos may finish at once; the list is read again once a second at most.
  function refresh() {
    pending ??= setTimeout(() => {
      pending = null;
      if (document.getElementById("rows") && window.scrollY < 400) htmx.trigger(filters, "refresh");
    }, 700);
  }

  const stream = new EventSource("/v1/stream");
  stream.onopen = () => { live.textContent = "live"; live.classList.add("on"); };
  stream.onerror = () => { live.textContent = "reconnecting…"; live.classList.remove("on"); };
  stream.addEventListener("inspection", refresh);
  stream.addEventListener("reload", refresh);
  addEventListener("pagehide", () => stream.close());

  for (const field of filters.querySelectorAll("[data-utc]")) {
    const hidden = filters.elements[field.dataset.utc];
    if (hidden.value) {
      const moment = new Date(hidden.value);
      field.value = new Date(moment - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
    }
    field.addEventListener("change", () => { hidden.value = field.value ? new Date(field.value).toISOString() : ""; });
  }
  document.addEventListener("htmx:configRequest", (event) => {
    // Fields that nobody filled in need not be in the address.
    for (const [name, value] of [...event.detail.formData.entries()]) if (value === "") event.detail.formData.delete(name);
  });
});
