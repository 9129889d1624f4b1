// The pieces of Vega that the report draws with: no maps, force layouts, word clouds or regressions.
import {transforms} from 'vega-dataflow';
import * as encoders from 'vega-encode';
import * as dataTransforms from 'vega-transforms';
import * as viewTransforms from 'vega-view-transforms';

Object.assign(transforms, dataTransforms, viewTransforms, encoders);

export {expressionInterpreter} from 'vega-interpreter';
export {loader} from 'vega-loader';
export {parse} from 'vega-parser';
export {View} from 'vega-view';
