// The theme's FontAwesome replaces every <i> by an <svg>. The widgets keep a hold on their <i> (Play's
// buttons) and crash when it is gone; nesting the picture inside leaves the element where it was.
window.FontAwesomeConfig = Object.assign({}, window.FontAwesomeConfig, { autoReplaceSvg: "nest" });
