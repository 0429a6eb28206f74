// Styles of the terminal library, in a way that the content security policy of the page allows.
//
// xterm.js writes its colours and sizes into `<style>` elements and into attributes `style`. The policy forbids both,
// because text of a task that became markup by mistake could use them too. It allows constructed style sheets and the
// properties of `element.style`. `build.mjs` puts these functions in the place of the four lines of the library.

/** Creates an element that stands for a style element: its text content becomes a constructed style sheet. */
export function createStyleElement(document: Document): HTMLElement {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const element = document.createElement("span");
  element.hidden = true;
  Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
  Object.defineProperty(element, "remove", {
    value: () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
      Element.prototype.remove.call(element);
    },
  });
  return element;
}

/** Sets all styles of an element, like its attribute `style`. */
export function setStyle(element: HTMLElement, text: string): void {
  element.style.cssText = text;
}
