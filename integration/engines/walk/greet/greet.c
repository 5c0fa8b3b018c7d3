#include <stdio.h>

int main(int argc, char **argv) {
    printf("Ahoy, %s\n", argc > 1 ? argv[1] : "deck");
    return 0;
}
