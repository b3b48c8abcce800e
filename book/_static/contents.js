// The contents of a page stand open, since they would jump if they opened as one reads on. However
// long they are, the entry of what is being read is in view.
const contents = document.querySelector(".bd-sidebar-secondary");
if (contents) {
  const follow = () => {
    const link = [...contents.querySelectorAll("a.nav-link.active")].pop();
    if (!link) return;
    const entry = link.getBoundingClientRect(), box = contents.getBoundingClientRect();
    if (entry.top < box.top || entry.bottom > Math.min(box.bottom, innerHeight))
      contents.scrollTop += entry.top - box.top - box.height / 3;
  };
  const what = { subtree: true, attributes: true, attributeFilter: ["class"] };
  new MutationObserver(follow).observe(contents, what);
}
