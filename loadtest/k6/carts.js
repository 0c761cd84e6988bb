// Carts: four in five arrivals change one line, the fifth adds, reads the cart (which must have it) and reads it again with
// the ETag (304).

import { addAndRead, arrivals, changeCart, options as common, prepare } from './lib.js';

export const options = common({
  changes: arrivals('changeCart', 0.8),
  reads: arrivals('addAndRead', 0.2, 1),
}, ['cart', 'read']);

export { addAndRead, changeCart, prepare as setup };
