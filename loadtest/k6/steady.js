// A steady sale: claims at a constant rate. Right answers: a claim, sold-out once the stock is gone, and already-claimed where
// BUYERS come again.

import { arrivals, claim, options as common, prepare } from './lib.js';

export const options = common({ steady: arrivals('claim') }, ['claim']);

export { claim, prepare as setup };
