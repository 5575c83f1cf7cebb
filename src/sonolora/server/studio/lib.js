// What the views are made of: components without a compiler, and live state.
import { h, render, Fragment } from "preact";
import htm from "htm";

export { render, Fragment };
export { useState, useEffect, useRef, useMemo, useCallback, useLayoutEffect } from "preact/hooks";
export { signal, computed, effect, batch } from "@preact/signals";
export const html = htm.bind(h);
