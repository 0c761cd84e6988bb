// A mixed crowd: of ten arrivals five claim (one in ten of those sends its claim again), two change a cart, two poll a claim,
// one reads the campaign.

import { arrivals, changeCart, claimAndRetry, options as common, page, poll, prepareHolders } from './lib.js';

export const options = common({
  claims: arrivals('claimAndRetry', 0.5),
  carts: arrivals('changeCart', 0.2),
  polls: arrivals('poll', 0.2),
  pages: arrivals('page', 0.1),
}, ['claim', 'cart', 'read']);

export { changeCart, claimAndRetry, page, poll, prepareHolders as setup };
