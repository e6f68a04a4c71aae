// The page's DOM as HTML, as a reader sees it: what a custom element shows stands in its place, its shadow tree with
// the elements that are slotted into it, and what stands for readers without JavaScript (`noscript`) is left out.
// HTML standard (2026), 13.3 "Serializing HTML fragments", without recursion: pages may be nested deeply.
//
// Arguments: the URL that was asked for, and how many characters the HTML may have. Returns null if it has more.
(asked, limit) => {
  const WITHOUT_END = new Set("area base br col embed hr img input link meta source track wbr".split(" "));
  const RAW = new Set("script style xmp iframe noembed noframes plaintext".split(" "));
  const SIGNS = { "&": "&amp;", "\u00a0": "&nbsp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const escaped = (text, signs) => text.replace(signs, (sign) => SIGNS[sign]);
  // A script that changes the address changes where relative links lead.
  const moved = location.href.split("#")[0] !== asked;
  const base = moved ? `<base href="${escaped(document.baseURI, /[&\u00a0<>"]/g)}">` : "";

  const childrenOf = (node) => {
    if (node.shadowRoot) return node.shadowRoot.childNodes;
    if (node.localName === "slot" && node.assignedNodes().length) return node.assignedNodes();
    return node.localName === "template" && node.content ? node.content.childNodes : node.childNodes;
  };

  const pieces = [];
  let size = 0;
  const stack = [document]; // nodes, and end tags as text
  while (stack.length) {
    const node = stack.pop();
    let piece = "";
    if (typeof node === "string") {
      piece = node;
    } else if (node.nodeType === Node.TEXT_NODE) {
      const raw = node.parentNode && RAW.has(node.parentNode.localName);
      piece = raw ? node.data : escaped(node.data, /[&\u00a0<>]/g);
    } else if (node.nodeType === Node.COMMENT_NODE) {
      piece = `<!--${node.data}-->`;
    } else if (node.nodeType === Node.DOCUMENT_TYPE_NODE) {
      piece = `<!DOCTYPE ${node.name}>`;
    } else if (node.localName !== "noscript") {
      if (node.nodeType === Node.ELEMENT_NODE) {
        const attributes = Array.from(node.attributes, (a) => ` ${a.name}="${escaped(a.value, /[&\u00a0<>"]/g)}"`);
        const name = node.tagName === node.localName.toUpperCase() ? node.localName : node.tagName;
        piece = `<${name}${attributes.join("")}>${name === "head" ? base : ""}`;
        if (!WITHOUT_END.has(name)) stack.push(`</${name}>`);
      }
      const children = childrenOf(node);
      for (let i = children.length - 1; i >= 0; i--) stack.push(children[i]);
    }
    size += piece.length;
    if (size > limit) return null;
    pieces.push(piece);
  }
  return pieces.join("");
}
