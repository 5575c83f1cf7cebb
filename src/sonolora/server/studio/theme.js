// Before anything is drawn: the colours that were chosen here, else those of the system.
{
  const chosen = localStorage.getItem("sonolora.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
