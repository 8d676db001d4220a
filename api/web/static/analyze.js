// A photo in, its verdict out: dropped, pasted, picked, photographed, or one of the samples.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("analyze");
  const drop = document.getElementById("drop");
  const status = document.getElementById("status");
  const result = document.getElementById("result");
  let turn = 0;

  function say(text, kind = "") {
    status.textContent = text;
    status.className = "status " + kind;
  }

  async function analyze(file) {
    const mine = ++turn;
    result.replaceChildren();
    if (!file) return;
    const { mostBytes, most } = form.dataset;
    if (file.size > Number(mostBytes)) return say(`This file is larger than ${most}.`, "bad");
    const data = new FormData();
    for (const name of ["product", "serial", "lot", "line", "station"]) {
      const field = form.elements[name];
      if (field && field.value.trim()) data.append(name, field.value.trim());
    }
    data.append("file", file, file.name || "photo.jpg");
    const started = performance.now();
    say("Uploading and judging…", "busy");
    try {
      let inspection = await api("POST", "/v1/inspections", data, { Prefer: "wait=10" });
      while (!["succeeded", "failed", "canceled"].includes(inspection.status)) {
        if (mine !== turn) return;
        say(`Waiting: ${inspection.status}, ${((performance.now() - started) / 1000).toFixed(0)} s…`, "busy");
        inspection = await api("GET", `/v1/inspections/${inspection.id}?wait=10`);
      }
      if (mine !== turn) return;
      const answer = await fetch(`/inspections/${inspection.id}?part=result`, { credentials: "same-origin" });
      // A key that may only submit sees no more of it, and a session may have ended.
      if (answer.ok && !answer.redirected) {
        // Our own page part, escaped by the server.
        result.innerHTML = await answer.text();
        installViewers(result);
        showTimes(result);
      }
      const seconds = ((performance.now() - started) / 1000).toFixed(2);
      const outcome = inspection.needs_review ? "on hold" : inspection.verdict || inspection.status;
      say(`${file.name || "Photo"}: ${outcome} after ${seconds} s.`);
      result.scrollIntoView({ block: "nearest", behavior: "smooth" });
    } catch (error) {
      if (mine === turn) say(error.status ? error.message : "The service cannot be reached. Try again.", "bad");
    }
  }

  for (const id of ["file", "camera"]) {
    document.getElementById(id).addEventListener("change", (event) => {
      analyze(event.target.files[0]);
      event.target.value = "";
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => analyze([...event.dataTransfer.files][0]));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) analyze(file);
  });
  for (const sample of document.querySelectorAll("[data-sample]")) {
    sample.addEventListener("click", async () => {
      const answer = await fetch(sample.dataset.sample, { credentials: "same-origin" });
      analyze(new File([await answer.blob()], sample.dataset.name, { type: "image/jpeg" }));
    });
  }
});
