// A page opened from a folder (file://) may not fetch, nor offer a file of the folder as a download.
if (location.protocol === "file:") {
  // The search page would fetch each found page to quote from it: results come without quotes instead.
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // The notebook would be shown as raw JSON; its folder lets the reader take it.
  for (const link of document.querySelectorAll("a[download][href$='.ipynb']")) {
    link.href = link.href.replace(/[^/]*$/, "");
    link.title = "The folder on your disk that holds this notebook";
    link.querySelector(".btn__text-container").textContent = "Folder of the .ipynb";
  }
}
