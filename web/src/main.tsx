import { render } from "preact";
import { Api } from "./api";
import { Page } from "./page";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const root = document.getElementById("page");
if (root) render(<Page api={new Api()} />, root);
