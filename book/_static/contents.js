// The contents of a page stand open, since they would jump if they opened as one reads on. However
// long they are, the entry of what is being read is in view.
addEventListener("activate.bs.scrollspy", ({ relatedTarget: link }) => {
  const list = link?.closest(".bd-sidebar-secondary");
  if (!list) return;
  const entry = link.getBoundingClientRect(), box = list.getBoundingClientRect();
  if (entry.top < box.top || entry.bottom > Math.min(box.bottom, innerHeight))
    list.scrollTop += entry.top - box.top - box.height / 3;
});
