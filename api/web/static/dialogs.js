// Buttons that ask before they do something, and buttons that copy a secret.
"use strict";

document.addEventListener("click", async (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  if (event.target.closest("[data-closes]")) event.target.closest("dialog").close();
  // A click beside the dialog lands on the dialog itself.
  if (event.target.matches("dialog[open]")) {
    const box = event.target.getBoundingClientRect();
    if (event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom) event.target.close();
  }

  const copier = event.target.closest("[data-copies]");
  if (!copier) return;
  const secret = document.getElementById(copier.dataset.copies);
  try {
    await navigator.clipboard.writeText(secret.textContent);
    copier.textContent = "Copied";
  } catch {
    // Without https a browser lets us select it only.
    getSelection().selectAllChildren(secret);
    copier.textContent = "Selected: copy it now";
  }
});
